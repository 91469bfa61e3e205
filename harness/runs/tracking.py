"""Metrics of a run as files: metrics.jsonl and TensorBoard events, readable while the run goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer import event_file_writer
from torch.utils.tensorboard import SummaryWriter

from harness.errors import UserError
from harness.files import write_text
from harness.record import METRICS_FILE, EpochRow, drawable
from harness.views.tensorboard import hparams_summaries, picture_summary, runs_layout


class Tracker:
    """Writes a run's epochs as they end. `rows` are the epochs that are already trained, when a run continues.

    Both files are made anew from `rows`, so that whatever a killed process left behind, no step is missing and none
    is there twice; the event files of earlier processes are deleted once the new one is on the disk.
    """

    def __init__(self, folder: Path, rows: Sequence[EpochRow], hparams: Mapping[str, Any]) -> None:
        old_events = list(folder.glob("events.out.tfevents.*"))
        write_text(folder / METRICS_FILE, "".join(row.line() for row in rows))
        self._metrics = (folder / METRICS_FILE).open("a", encoding="utf-8")
        # purge_step tells a TensorBoard that is watching to drop what it read from the old files.
        self._writer = SummaryWriter(str(folder), purge_step=0 if old_events else None)
        columns, begin, self._end = hparams_summaries(hparams)
        for summary in (columns, begin, runs_layout()):
            self._add_summary(summary)
        now = time.time() - sum(row.seconds or 0.0 for row in rows)
        for row in rows:
            now += row.seconds or 0.0
            self._add_row(row, now)
        self._writer.flush()
        for path in old_events:
            path.unlink()

    def __enter__(self) -> Tracker:
        self._told = threading.excepthook
        threading.excepthook = self._tell
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # What is wrong with the files was raised already, where a run ends by it.
        with suppress(OSError) if kind is not None else nullcontext():
            self._metrics.close()
            self._writer.close()
        threading.excepthook = self._told

    def _tell(self, raised: threading.ExceptHookArgs) -> None:
        """Leave out what TensorBoard's own thread meets: its writer raises that again at the next flush."""
        if type(raised.thread).__module__ != event_file_writer.__name__:
            self._told(raised)

    def epoch(self, row: EpochRow) -> None:
        """Append one epoch to both files; it is with the operating system when this returns.

        Raises:
            UserError: when the disk is full.
        """
        try:
            self._metrics.write(row.line())
            self._metrics.flush()
            self._add_row(row, time.time())
            self._writer.flush()
        except OSError as error:
            raise UserError(f"{self._metrics.name}: cannot be written: {error.strerror or error}") from error

    def finish(self, epoch: int, results: Mapping[str, float | None], pictures: Mapping[str, bytes]) -> None:
        """Add the results and the pictures (PNG) by tag at the last epoch; mark the run as completed in HPARAMS."""
        for tag, value in results.items():
            self._writer.add_scalar(tag, drawable(value), epoch)
        for tag, png in pictures.items():
            self._add_summary(picture_summary(tag, png), epoch)
        self._add_summary(self._end)
        self._writer.flush()

    def _add_row(self, row: EpochRow, when: float) -> None:
        scalars = {f"lr/{name}": rate for name, rate in row.lr.items()} | {
            "train/loss": row.train_loss,
            "train/accuracy": row.train_accuracy,
            "val/loss": row.val_loss,
            "val/accuracy": row.val_accuracy,
            "throughput/images_per_second": row.images_per_second,
        }
        for tag, value in scalars.items():
            self._writer.add_scalar(tag, drawable(value), row.epoch, walltime=when)

    def _add_summary(self, summary: Summary, epoch: int | None = None) -> None:
        assert self._writer.file_writer is not None
        self._writer.file_writer.add_summary(summary, epoch)
