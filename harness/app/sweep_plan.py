"""The stage tree of a Hydra multirun, made in the parent process before any job is launched, and read by the jobs."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, open_dict

from harness.app.arguments import Override
from harness.app.compose import job_title, run_name, typed_config
from harness.app.job_lines import LOG, PlannedJobs
from harness.app.sweep_folder import open_folder
from harness.config import Config
from harness.errors import UserError
from harness.files import write_json

if TYPE_CHECKING:
    from harness.stages.tree import StageTree

log = logging.getLogger(__name__)

TREE = "tree.json"


@contextmanager
def begin(config: DictConfig, folder: Path, typed: Sequence[str]) -> Iterator[PlannedJobs]:
    """Plan the multirun that `config` is about to start in `folder`; while entered, the store keeps what it needs.

    With `plan_only` the tree is drawn and the program ends.

    Raises:
        UserError: when the folder belongs to another sweep or cannot be written.
    """
    count, found = _jobs(config)
    jobs, tree = _planned(found)
    if jobs and jobs[0].config.plan_only:
        import rich

        rich.print(tree.drawn())
        raise SystemExit(0)
    with ExitStack() as held:
        held.enter_context(open_folder(folder, typed))
        shares = bool(jobs) and jobs[0].config.resume != "never"
        if shares:
            _share(jobs, tree, folder, held)
        if jobs:
            log.info("a line for each job; what it logs is in %s", folder / "*" / LOG)
        epochs = tree.epochs_new if shares else [job.config.epochs for job in jobs]
        widest = max((len(job.title) for job in jobs), default=0)
        yield PlannedJobs(count, widest, {job.number: new for job, new in zip(jobs, epochs, strict=True)})


def boundaries_to_save(folder: Path, overrides: Sequence[str]) -> tuple[int, ...]:
    """The epochs before which the job with these overrides leaves its state, by the plan in the sweep's folder."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        for run in json.loads((folder / TREE).read_text())["runs"]:
            if run["overrides"] == list(overrides):
                return tuple(run["save_at"])
    return ()


@dataclass(frozen=True)
class _Job:
    number: int
    title: str
    overrides: tuple[str, ...]
    config: Config
    schedule: str


def _jobs(config: DictConfig) -> tuple[int, list[_Job]]:
    """How many jobs Hydra's own sweeper has, and those of them that will not be refused, in its order.

    Of other sweepers, which choose a job by the results of those before, nothing can be known: their runs share
    what they happen to have in common.
    """
    if not str(config.hydra.sweeper.get("_target_", "")).endswith(".BasicSweeper"):
        return 0, []
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    loader = GlobalHydra.instance().config_loader()
    params = config.hydra.sweeper.get("params") or {}
    arguments = [*(f"{key}={value}" for key, value in params.items()), *config.hydra.overrides.task]
    found = []
    try:
        overrides = OverridesParser.create(config_loader=loader).parse_overrides(arguments)
        jobs = BasicSweeper.split_arguments(overrides, None)[0]
        for number, job in enumerate(jobs):
            composed = loader.load_sweep_config(config, list(job))
            with suppress(UserError):
                found.append(_job(number, composed))
    except HydraException:
        return 0, []  # Hydra will say what is wrong when it comes there itself
    return len(jobs), found


def _job(number: int, composed: DictConfig) -> _Job:
    overrides = tuple(composed.hydra.overrides.task)
    schedule = str(composed.hydra.runtime.choices.scheduler)
    title = job_title(schedule, composed.hydra.job.override_dirname)
    with open_dict(composed):
        del composed["hydra"]
    return _Job(number, title, overrides, typed_config(composed), schedule)


def _planned(jobs: Sequence[_Job]) -> tuple[list[_Job], StageTree]:
    """The jobs whose schedule can be planned, and their tree, in the same order."""
    # They import torch, which a command line that is only checked need not wait for.
    from harness.machine import spare_the_collector
    from harness.stages.identity import as_asked, settings
    from harness.stages.tree import PlannedRun, StageTree
    from harness.training.optim import preview_optimizer
    from harness.training.schedule import make_plan

    spare_the_collector()
    swept = _swept(jobs)
    kept, runs = [], []
    for job in jobs:
        shown = [o for o in job.overrides if Override.parse(o).key in swept]
        name = run_name("__".join([f"scheduler={job.schedule}", *shown]))
        with suppress(UserError):
            plan = make_plan(job.config.scheduler, preview_optimizer(job.config.optimizer), job.config.epochs)
            runs.append(PlannedRun(name, settings(job.config), plan, as_asked(job.config)))
            kept.append(job)
    return kept, StageTree(tuple(runs))


def _swept(jobs: Sequence[_Job]) -> set[str]:
    """The keys that tell jobs apart in a drawing: those that differ, but for the schedule's name and the seed."""
    values: dict[str, set[str]] = {}
    for job in jobs:
        for override in job.overrides:
            values.setdefault(Override.parse(override).key, set()).add(override)
    return {key for key, found in values.items() if len(found) > 1} - {"scheduler", "seed"}


def _share(jobs: Sequence[_Job], tree: StageTree, folder: Path, held: ExitStack) -> None:
    """Write the plan for the jobs, and have the store keep what they need."""
    from harness.stages.store import open_store
    from harness.stages.tree import saving_text

    record: dict[str, Any] = {
        "epochs_alone": tree.epochs_alone,
        "epochs_shared": tree.epochs_shared,
        "runs": [{"overrides": job.overrides, "save_at": tree.save_at(n)} for n, job in enumerate(jobs)],
    }
    write_json(folder / TREE, record)
    log.info(
        "stage tree: %d runs of %d epochs in all, %d to train (%s)",
        len(jobs), tree.epochs_alone, tree.epochs_shared, saving_text(tree.epochs_alone, tree.epochs_shared),
    )  # fmt: skip
    held.enter_context(open_store(jobs[0].config.stages).sweep(tree.branch_keys))
