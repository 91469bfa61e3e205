"""Pictures of one run: its schedule and its learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.record import EpochRow, drawable
from harness.training.plan import LrPlan
from harness.views.style import COLOURS, DASHES, MARK, TEXT, TRAIN, VAL, log_axis, margins, save


@rc_context(TEXT)
def plot_plan(path: Path, plan: LrPlan, title: str) -> None:
    """Draw the learning rate of every group over the epochs as a PNG; raises as `style.save`."""
    figure = Figure(figsize=(8, 4))
    margins(figure, left=0.9, bottom=0.6)
    axes = figure.subplots()
    draw_plan(axes, plan)
    axes.set_title(title)
    axes.set_xlabel("epoch")
    save(path, figure)


@rc_context(TEXT)
def plot_curves(path: Path, rows: Sequence[EpochRow], plan: LrPlan, title: str) -> None:
    """Draw accuracy, loss and learning rate of the trained epochs as a PNG; raises as `style.save`."""
    figure = Figure(figsize=(8, 9))
    margins(figure, left=0.9, bottom=0.6)
    accuracy, loss, lr = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 2))
    epochs = [row.epoch for row in rows]
    for axes, kind in ((accuracy, "accuracy"), (loss, "loss")):
        for part, label, colour, dash in (("train", "training", TRAIN, "--"), ("val", "validation", VAL, "-")):
            values = [drawable(getattr(row, f"{part}_{kind}")) for row in rows]
            axes.plot(epochs, values, dash, color=colour, label=label)
        _mark_drops(axes, plan)
        axes.legend()
        axes.grid(alpha=0.3)
    if any(drawable(loss) > 0 for row in rows for loss in (row.train_loss, row.val_loss)):
        log_axis(loss)
    accuracy.set_ylabel("accuracy")
    loss.set_ylabel("cross-entropy (nats)")
    draw_plan(lr, plan)
    lr.set_xlabel("epoch")
    accuracy.set_title(title)
    save(path, figure)


def draw_plan(axes: Axes, plan: LrPlan) -> None:
    """Draw the rates of a plan as steps on a logarithmic axis."""
    for index, name in enumerate(plan.groups):
        rates = [epoch[index] for epoch in plan.rates]
        colour, dash = COLOURS[index % len(COLOURS)], DASHES[index % len(DASHES)]
        axes.step(range(plan.epochs), rates, where="mid", color=colour, linestyle=dash, label=name)
    if all(rate > 0 for epoch in plan.rates for rate in epoch):
        log_axis(axes)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("learning rate")
    axes.grid(alpha=0.3)
    if len(plan.groups) > 1:
        axes.legend()


def _mark_drops(axes: Axes, plan: LrPlan) -> None:
    """A line where a decay by half or more begins; smooth schedules get none."""
    for change in plan.changes:
        if any(new <= old / 2 for old, new in zip(change.before, change.after, strict=True)):
            axes.axvline(change.epoch - 0.5, color=MARK, linestyle=":", linewidth=1)
