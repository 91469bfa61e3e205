"""What a Hydra multirun needs beside its jobs: a plan, a restart, and the report at the end."""

from __future__ import annotations

import logging
import sys
import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from harness.app.arguments import CommandLine, quoted
from harness.app.compose import message
from harness.app.job_lines import JobLines
from harness.app.sweep_folder import holds_results, note_finished, remove_if_unused, seen_from_here, unfinished
from harness.errors import UserError, plural, printable
from harness.record import COMPLETED

if TYPE_CHECKING:
    from harness.report.write import Report

log = logging.getLogger(__name__)


class SweepPlanner(Callback):  # type: ignore[misc]
    """Plans, in the parent process, the multirun that Hydra starts, and remembers its folder.

    Hydra 1.3 does not call `on_multirun_end` after a failed job, so the report is not made there.
    """

    folder: ClassVar[Path | None] = None
    typed: ClassVar[list[str]] = []
    held: ClassVar[ExitStack] = ExitStack()
    lines: ClassVar[JobLines] = JobLines()
    jobs: ClassVar[int] = 0

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called by Hydra before it launches the jobs; what goes wrong here ends the program.

        Hydra would turn an exception in a callback into a warning, and go on.
        """
        from harness.app.sweep_plan import begin

        try:
            sweep = SweepPlanner.held.enter_context(begin(config, SweepPlanner.typed))
        except (UserError, OmegaConfBaseException) as error:
            text = str(error) if isinstance(error, UserError) else message(error, SweepPlanner.typed)
            print(f"error: {printable(text)}", file=sys.stderr)
            sys.exit(2)
        except Exception:
            traceback.print_exc()
            sys.exit(1)
        SweepPlanner.folder, SweepPlanner.jobs = sweep.folder, sweep.jobs.count
        SweepPlanner.lines = JobLines(sweep.jobs)


def continued(line: CommandLine) -> CommandLine:
    """The command line with the folder of an unfinished sweep of the very same command, if there is one in runs/."""
    # The same command, whether or not it also says in which folder the sweep lies.
    SweepPlanner.typed = [text for text in line.arguments if not text.startswith("hydra.sweep.dir=")]
    is_fixed = line.values("hydra.sweep.dir") or set(line.values("resume")) - {"auto"}
    folder = None if is_fixed else unfinished(SweepPlanner.typed)
    if folder is None:
        return line
    print(f"continuing the unfinished sweep in {printable(str(folder))}; what is trained there is kept")
    return line.beside(f"hydra.sweep.dir={quoted(folder)}")


def report_on_sweep(completed: bool) -> None:
    """Write and print the report on the multirun that ran in this process, if there was one.

    What keeps the report from being written does not hide how a sweep ended that did not complete: there it is logged.

    Raises:
        UserError: when the sweep completed, but the report cannot be written or jobs left no results.
    """
    if SweepPlanner.folder is None:
        return
    SweepPlanner.held.close()
    folder = seen_from_here(SweepPlanner.folder)
    if not holds_results(folder):
        if completed:
            raise _lacks_results(0)
        remove_if_unused(folder)
        return
    try:
        report = _written(folder, SweepPlanner.jobs if completed else None)
    except Exception as error:
        if completed:
            raise
        log.error("no report: %s", error, exc_info=None if isinstance(error, UserError) else error)
        return
    done = sum(run.status == COMPLETED for run in report.comparison.runs)
    is_finished = completed and done >= max(1, SweepPlanner.jobs)
    if is_finished:  # only now, so that after a kill in the middle of the report the same command makes it
        note_finished(folder, SweepPlanner.typed)
    _tell(report, folder)
    if completed and not is_finished:
        raise _lacks_results(done)


def _written(folder: Path, jobs: int | None) -> Report:
    from harness.report.aggregates import write_aggregates
    from harness.report.write import write_report

    report = write_report([folder], folder / "report", jobs=jobs)
    write_aggregates(report.comparison.groups, folder / "aggregated")
    return report


def _tell(report: Report, folder: Path) -> None:
    from harness.views.tensorboard import opening_lines

    paths = [f"report: {path}" for path in report.files]
    print(printable("\n".join(["", report.text, "", *paths, *opening_lines(folder, "custom_scalars")])))


def _lacks_results(done: int) -> UserError:
    jobs = f"of {plural(SweepPlanner.jobs, 'job')} " if SweepPlanner.jobs else ""
    return UserError(
        f"hydra.sweep.dir={SweepPlanner.folder}: all jobs have ended, but {jobs}only {done} left a completed run "
        "there; must be a folder that every job reaches, wherever it runs; the same command does what is missing"
    )
