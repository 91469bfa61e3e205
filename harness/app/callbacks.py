"""What a Hydra multirun needs beside its jobs: a plan, a restart, and the report at the end."""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from harness.app.arguments import CommandLine, quoted
from harness.app.job_lines import JobLines
from harness.app.sweep_folder import note_finished, unfinished
from harness.errors import UserError

log = logging.getLogger(__name__)


class SweepPlanner(Callback):  # type: ignore[misc]
    """Plans, in the parent process, the multirun that Hydra starts, and remembers its folder.

    Hydra 1.3 does not call `on_multirun_end` after a failed job, so the report is not made there.
    """

    folder: ClassVar[Path | None] = None
    typed: ClassVar[list[str]] = []
    held: ClassVar[ExitStack] = ExitStack()
    lines: ClassVar[JobLines] = JobLines()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called by Hydra before it launches the jobs; what goes wrong here ends the sweep."""
        from harness.app.sweep_plan import begin

        try:
            folder = Path(str(config.hydra.sweep.dir))
            planned = SweepPlanner.held.enter_context(begin(config, folder, SweepPlanner.typed))
        except UserError as error:
            # Hydra would turn any other exception in a callback into a warning, and go on.
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        SweepPlanner.folder = folder
        SweepPlanner.lines = JobLines(planned)


def continued(line: CommandLine) -> CommandLine:
    """The command line with the folder of an unfinished sweep of the very same command, if there is one in runs/."""
    SweepPlanner.typed = list(line.arguments)
    is_fixed = line.values("hydra.sweep.dir") or set(line.values("resume")) - {"auto"}
    folder = None if is_fixed else unfinished(line.arguments)
    if folder is None:
        return line
    print(f"continuing the unfinished sweep in {folder}; what is trained there is kept")
    return line.beside(f"hydra.sweep.dir={quoted(folder)}")


def report_on_sweep(completed: bool) -> None:
    """Write and print the report on the multirun that ran in this process, if there was one.

    What keeps the report from being written is logged, and does not hide how the sweep itself ended.
    """
    folder = SweepPlanner.folder
    if folder is None:
        return
    SweepPlanner.held.close()
    from harness.record import RUN_FILES
    from harness.report.aggregates import write_aggregates
    from harness.report.write import write_report
    from harness.views.tensorboard import opening_lines

    try:
        report = write_report([folder], folder / "report")
        write_aggregates(report.comparison.groups, folder / "aggregated")
    except UserError as error:
        # A sweep that was refused before its first job has its own message, and nothing to report on.
        if completed or any(any(folder.glob(f"*/{name}")) for name in RUN_FILES):
            log.error("no report: %s", error)
        report = None
    if completed:  # only now, so that after a kill in the middle of the report the same command makes it
        note_finished(folder)
    if report is None:
        return
    print(f"\n{report.text}\n")
    for path in report.files:
        print(f"report: {path}")
    print("\n".join(opening_lines(folder, "custom_scalars")))
