"""One TensorBoard run a schedule: the mean over its seeds and the 95 % interval, which TensorBoard cannot make."""

from __future__ import annotations

import io
import re
import time
from collections import defaultdict
from collections.abc import Sequence
from math import nan
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.custom_scalar import layout_pb2 as layouts
from tensorboard.summary.writer.record_writer import RecordWriter

from harness.compare.groups import Group, Variant
from harness.compare.metrics import CURVES
from harness.compare.results import aggregate, rates
from harness.errors import UserError
from harness.files import write_atomic
from harness.views.tensorboard import line_chart, page

_SUFFIX = ".aggregated"  # tells event files written here from those of runs
_LONGEST_NAME = 100
_HELPERS = "~band"  # cards are sorted by tag: what only the charts with intervals need comes last


def write_aggregates(groups: Sequence[Group], output: Path) -> tuple[Path, ...]:
    """Write a TensorBoard run for each schedule of the groups below `output`, and return their folders.

    The scalars of an epoch are `mean/lr/<group>`, `mean/val/accuracy` and so on for loss and training, and, with two
    seeds or more, `~band/val/accuracy/low` and `high` and so on, NaN in an epoch that only one run has. The first group
    is the main one (`make_groups`); the folders of the others begin with their number. What an earlier call left in
    `output` is replaced, so that no point is there twice, and schedules that are gone are removed; other files are
    left alone.

    Raises:
        UserError: when a file or folder cannot be written or removed.
    """
    folders: list[Path] = []
    try:
        for number, group in enumerate(groups, start=1):
            for variant in group.variants:
                prefix = "" if number == 1 else f"group{number}-"
                folder = _new_folder(output, prefix + _file_name(variant.label), folders)
                folder.mkdir(parents=True, exist_ok=True)
                _replace(folder, _events(variant))
                folders.append(folder)
        _remove_others(output, folders)
    except OSError as error:
        raise UserError(f"{error.filename or output}: cannot be written: {error.strerror or error}") from error
    return tuple(folders)


def _file_name(label: str) -> str:
    """A label as a folder's name of letters, digits and `=.+_-`."""
    return re.sub(r"[^\w=.+]+", "-", label)[:_LONGEST_NAME].strip("-.") or "schedule"


def _new_folder(output: Path, name: str, taken: Sequence[Path]) -> Path:
    """A folder of this name, with a number where another label gave the same one, also on disks that ignore case."""
    names = {folder.name.casefold() for folder in taken}
    candidates = (name if number == 1 else f"{name}-{number}" for number in range(1, len(names) + 2))
    return output / next(name for name in candidates if name.casefold() not in names)


def _replace(folder: Path, content: bytes) -> None:
    old = list(folder.glob(f"events.out.tfevents.*{_SUFFIX}"))
    # A new name, later in the alphabet, also where the clock was set back: a TensorBoard that watches reads on there.
    earlier = (re.search(r"\.(\d{1,19})\.", path.name) for path in old)
    number = max([time.time_ns(), *(int(found[1]) + 1 for found in earlier if found)])
    write_atomic(folder / f"events.out.tfevents.{number:019}{_SUFFIX}", content)
    for path in old:
        path.unlink()


def _remove_others(output: Path, kept: Sequence[Path]) -> None:
    for path in output.glob(f"*/events.out.tfevents.*{_SUFFIX}"):
        if path.parent not in kept:
            path.unlink()
            if not any(path.parent.iterdir()):
                path.parent.rmdir()


def _events(variant: Variant) -> bytes:
    """The content of a variant's event file: one event an epoch, with all of its scalars."""
    now = time.time()
    events = [
        Event(wall_time=now, file_version="brain.Event:2"),
        # A TensorBoard that is watching drops what it read from an earlier file.
        Event(wall_time=now, step=0, session_log=SessionLog(status=SessionLog.START)),
    ]
    if len(variant.runs) > 1:
        events.append(Event(wall_time=now, summary=aggregated_layout()))
    scalars = _scalars(variant)
    for epoch in sorted(scalars):
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars[epoch]]
        events.append(Event(wall_time=now, step=epoch, summary=Summary(value=values)))
    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    for event in events:
        writer.write(event.SerializeToString())
    return buffer.getvalue()


def _scalars(variant: Variant) -> dict[int, list[tuple[str, float]]]:
    """Tags and values by epoch."""
    scalars: dict[int, list[tuple[str, float]]] = defaultdict(list)
    for epoch, lr in rates(variant).items():
        scalars[epoch] += [(mean_tag(f"lr/{group}"), rate) for group, rate in lr.items()]
    for curve in CURVES:
        tag, band = curve.key.replace("_", "/", 1), aggregate(variant.runs, curve.key)
        low_tag, high_tag = band_tags(tag)
        has_band = max(band.n, default=0) > 1
        for epoch, mean, low, high in zip(band.epochs, band.mean, band.low, band.high, strict=True):
            scalars[epoch].append((mean_tag(tag), mean))
            if has_band:
                # A margin chart needs both ends at every epoch of the mean, also where a single run is left.
                scalars[epoch] += [(low_tag, nan if low is None else low), (high_tag, nan if high is None else high)]
    return scalars


def aggregated_layout() -> Summary:
    """The custom-scalars page of `write_aggregates`: a line and its interval for each schedule."""
    charts = [line_chart("mean learning rate", "mean/lr/.*")]
    for title, metric in (
        ("mean validation accuracy", "val/accuracy"),
        ("mean validation loss", "val/loss"),
        ("mean training loss", "train/loss"),
    ):
        low, high = band_tags(metric)
        series = layouts.MarginChartContent.Series(value=mean_tag(metric), lower=low, upper=high)
        charts.append(layouts.Chart(title=title, margin=layouts.MarginChartContent(series=[series])))
    return page("Mean over seeds with its 95 % interval", charts)


def mean_tag(tag: str) -> str:
    """The tag of the mean over seeds of a run's scalar."""
    return f"mean/{tag}"


def band_tags(tag: str) -> tuple[str, str]:
    """The tags of the lower and upper end of that mean's interval."""
    return f"{_HELPERS}/{tag}/low", f"{_HELPERS}/{tag}/high"
