"""The stage tree of a Hydra multirun, made in the parent process before any job is launched, and read by the jobs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from harness.app.arguments import Override, quoted
from harness.app.compose import job_title, message, run_name, typed_config
from harness.app.job_lines import LOG, PlannedJobs
from harness.app.sweep_folder import TREE, new_folder, open_folder, seen_from_here
from harness.config import Config
from harness.errors import UserError, error_text, plural
from harness.files import read_sealed, write_sealed
from harness.stages.tree import PlannedRun, StageTree, saving_text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sweep:
    """A multirun that has begun: its folder, absolute, and what is known of its jobs."""

    folder: Path
    jobs: PlannedJobs


@contextmanager
def begin(config: DictConfig, typed: Sequence[str]) -> Iterator[Sweep]:
    """Plan the multirun that `config` is about to start; while entered, the store keeps what it needs.

    With `plan_only` the tree is drawn and the program ends.

    Raises:
        UserError: when every job is refused, or when the folder belongs to another sweep or cannot be written.
    """
    plan = _plan(config, typed)
    if config.get("plan_only"):
        plan.draw()
        raise SystemExit(0)
    with ExitStack() as held:
        folder = _settled(config)
        held.enter_context(open_folder(folder, typed))
        shares = bool(plan.jobs) and plan.jobs[0].config.resume != "never"
        if shares:
            _share(plan, folder, typed, held)
        if plan.jobs:
            log.info("a line for each job; what it logs is in %s", seen_from_here(folder) / "*" / LOG)
        yield Sweep(folder, plan.shown(shares))


def boundaries_to_save(folder: Path, overrides: Sequence[str]) -> tuple[int, ...]:
    """The epochs before which the job with these overrides leaves its state, by the plan in the sweep's folder."""
    runs = (read_sealed(folder / TREE) or {}).get("runs", [])
    return next((tuple(run["save_at"]) for run in runs if run["overrides"] == list(overrides)), ())


def _settled(config: DictConfig) -> Path:
    """The folder of the multirun: absolute, as jobs may run in other folders, and new where it is named by the time.

    It is written into the configuration, from which Hydra composes those of the jobs.
    """
    folder = Path(str(config.hydra.sweep.dir)).absolute()
    if "${now:" in str(OmegaConf.to_container(config.hydra.sweep, resolve=False)["dir"]):
        folder = new_folder(folder)
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.sweep.dir = str(folder)
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(folder)}")
    return folder


@dataclass(frozen=True)
class _Job:
    """A job whose settings are sound: number, title, subfolder, overrides, configuration and its schedule's name."""

    number: int
    title: str
    folder: str
    overrides: tuple[str, ...]
    config: Config
    schedule: str

    @staticmethod
    def read(number: int, composed: DictConfig) -> _Job:
        """From its composition; raises what is wrong with that."""
        overrides = tuple(composed.hydra.overrides.task)
        schedule = str(composed.hydra.runtime.choices.scheduler)
        title = job_title(schedule, composed.hydra.job.override_dirname)
        with open_dict(composed):
            composed.hydra.job.id = composed.hydra.job.num = number
            folder = str(composed.hydra.sweep.subdir)
            del composed["hydra"]
        return _Job(number, title, folder, overrides, typed_config(composed), schedule)

    def planned(self, swept: set[str]) -> PlannedRun:
        """Its schedule and the keys of its states; raises whatever keeps them from being computed."""
        # They import torch, which a command line that is only checked need not wait for.
        from harness.machine import spare_the_collector
        from harness.stages.identity import as_asked, settings
        from harness.training.optim import preview_optimizer
        from harness.training.schedule import make_plan

        spare_the_collector()
        config = self.config
        shown = [text for text in self.overrides if Override.parse(text).key in swept]
        name = run_name("__".join([f"scheduler={self.schedule}", *shown]))
        plan = make_plan(config.scheduler, preview_optimizer(config.optimizer), config.epochs)
        run = PlannedRun(name, settings(config), plan, as_asked(config))
        assert len(run.keys) == len(run.nodes)
        return run


@dataclass(frozen=True)
class _Plan:
    """How many jobs there are, 0 where a sweeper decides on the way, those that can be planned, in Hydra's order, with
    their runs, and by number why the others cannot."""

    count: int = 0
    jobs: list[_Job] = field(default_factory=list)
    runs: list[PlannedRun] = field(default_factory=list)
    refused: dict[int, Exception] = field(default_factory=dict)

    @cached_property
    def tree(self) -> StageTree:
        """The stages of the jobs, in their order."""
        return StageTree(tuple(self.runs))

    @contextmanager
    def without(self, number: int) -> Iterator[None]:
        """What is raised in here, unless Hydra refuses the sweep for it, keeps this job out of the plan, and no other.

        When its turn comes it will fail in the same way, and its line says so.
        """
        try:
            yield
        except HydraException:
            raise
        except Exception as error:
            self.refused[number] = error

    def draw(self) -> None:
        """Print the tree, and which jobs are not in it.

        Raises:
            UserError: when there is nothing to draw.
        """
        import rich

        if not self.jobs:
            why = "; ".join({error_text(error) for error in self.refused.values()}) or "its sweeper decides on the way"
            raise UserError(f"plan_only=true: no job of this sweep can be planned; must be false ({why})")
        rich.print(self.tree.drawn())
        for number, error in self.refused.items():
            print(f"job {number + 1} of {self.count} cannot be planned: {error_text(error)}")

    def shown(self, shares: bool) -> PlannedJobs:
        """What the lines of the jobs are made from."""
        epochs = self.tree.epochs_new if shares else [job.config.epochs for job in self.jobs]
        widest = max((len(job.title) for job in self.jobs), default=0)
        return PlannedJobs(self.count, widest, {job.number: new for job, new in zip(self.jobs, epochs, strict=True)})


def _plan(config: DictConfig, typed: Sequence[str]) -> _Plan:
    """What can be known of the jobs before they run. What is wrong with one job keeps none of the others from it.

    Of sweepers other than Hydra's own, which choose a job by the results of those before, nothing can be known: their
    runs share what they happen to have in common.

    Raises:
        UserError: when Hydra would refuse the sweep, every job is refused, or two would have the same folder.
    """
    if not str(config.hydra.sweeper.get("_target_", "")).endswith(".BasicSweeper"):
        return _Plan()
    try:
        by_job = _overrides_by_job(config)
        plan, sound, swept = _Plan(len(by_job)), [], _swept(by_job)
        for number, overrides in enumerate(by_job):
            with plan.without(number):
                sound.append(_Job.read(number, _composed(config, overrides)))
        for job in sound:
            with plan.without(job.number):
                plan.runs.append(job.planned(swept))
                plan.jobs.append(job)
    except HydraException as error:
        raise UserError(message(error, typed)) from None
    except Exception as error:  # also where a new Hydra keeps elsewhere what this needs of it
        log.warning("the sweep cannot be planned, so its jobs share what they happen to find (%s)", error_text(error))
        return _Plan()
    _check(plan)
    return plan


def _check(plan: _Plan) -> None:
    unforeseen = {n: error for n, error in plan.refused.items() if not isinstance(error, UserError)}
    if plan.refused and not plan.jobs and not unforeseen:
        raise UserError("\n".join(dict.fromkeys(map(str, plan.refused.values()))))
    for number, error in list(unforeseen.items())[:1]:
        log.warning(
            "%s cannot be planned, as job %d (%s)", plural(len(unforeseen), "job"), number + 1, error_text(error)
        )
    first: dict[str, int] = {}
    for job in plan.jobs:
        if (other := first.setdefault(job.folder, job.number)) != job.number:
            raise UserError(
                f"hydra.sweep.subdir={job.folder}: is the folder of jobs {other + 1} and {job.number + 1}; must be "
                "another one for each job, as with ${hydra.job.num} in it"
            )


def _overrides_by_job(config: DictConfig) -> list[list[str]]:
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    params = config.hydra.sweeper.get("params") or {}
    arguments = [*(f"{key}={value}" for key, value in params.items()), *config.hydra.overrides.task]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    jobs: list[list[str]] = BasicSweeper.split_arguments(parser.parse_overrides(arguments), None)[0]
    return jobs


def _composed(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    return GlobalHydra.instance().config_loader().load_sweep_config(config, list(overrides))


def _swept(jobs: Sequence[Sequence[str]]) -> set[str]:
    """The keys that tell jobs apart in a drawing: those that differ, but for the schedule's name and the seed."""
    values: dict[str, set[str]] = {}
    for text in {text for job in jobs for text in job}:
        values.setdefault(Override.parse(text).key, set()).add(text)
    return {key for key, found in values.items() if len(found) > 1} - {"scheduler", "seed"}


def _share(plan: _Plan, folder: Path, typed: Sequence[str], held: ExitStack) -> None:
    """Write the plan for the jobs, and have the store keep what they need."""
    from harness.stages.store import open_store

    tree = plan.tree
    record: dict[str, Any] = {
        "arguments": list(typed),
        "epochs_alone": tree.epochs_alone,
        "epochs_shared": tree.epochs_shared,
        "runs": [
            {"overrides": list(job.overrides), "save_at": list(tree.save_at(n))} for n, job in enumerate(plan.jobs)
        ],
    }
    write_sealed(folder / TREE, record)
    log.info(
        "stage tree: %d runs of %d epochs in all, %d to train (%s)",
        len(plan.jobs), tree.epochs_alone, tree.epochs_shared, saving_text(tree.epochs_alone, tree.epochs_shared),
    )  # fmt: skip
    held.enter_context(open_store(plan.jobs[0].config.stages).sweep(tree.branch_keys))
