"""A schedule's plan for a person to look at, made without data and without training."""

from __future__ import annotations

from pathlib import Path

import plotext
import rich
from rich.markup import escape
from rich.table import Table

from harness.config import Config
from harness.errors import plural, printable
from harness.training.optim import preview_optimizer
from harness.training.plan import LrPlan
from harness.training.schedule import make_plan
from harness.training.schedule_rules import plan_warnings
from harness.views.console import say
from harness.views.curves import plot_plan

# A smooth schedule changes in every epoch: more rows than this are cut in the middle.
_MOST_ROWS = 24


def show(config: Config, name: str, picture: Path) -> LrPlan:
    """Print the plan's changes and a drawing of it, write `picture`, and return the plan.

    Groups of parameters that the optimizer is configured for are all shown; whether the network has parameters for
    them is not looked at.

    Raises:
        UserError: for a schedule that training would refuse too, and for a picture that cannot be written.
    """
    optimizer = preview_optimizer(config.optimizer)
    plan = make_plan(config.scheduler, optimizer, config.epochs)
    console = rich.get_console()
    console.print(_table(plan, name))
    for warning in plan_warnings(config.scheduler, plan):
        text = printable(f"warning: {warning}")
        console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
    print(_drawing(plan, min(console.width, 100)))
    plot_plan(picture, plan, f"schedule {name}, {plan.epochs} epochs")
    say(f"picture: {picture}")
    return plan


def _table(plan: LrPlan, name: str) -> Table:
    title = f"schedule {name}: {plural(len(plan.changes), 'change')} in {plan.epochs} epochs"
    table = Table(title=escape(printable(title)), min_width=len(title))
    table.add_column("from epoch", justify="right")
    for group in plan.groups:
        table.add_column(escape(printable(f"lr {group}")), justify="right")
    starts = [0, *(change.epoch for change in plan.changes)]
    cut = len(starts) > _MOST_ROWS
    for position, epoch in enumerate(starts):
        if cut and _MOST_ROWS // 2 <= position < len(starts) - _MOST_ROWS // 2:
            if position == _MOST_ROWS // 2:
                table.add_row(*["..."] * (len(plan.groups) + 1))
            continue
        table.add_row(str(epoch), *(f"{rate:.6g}" for rate in plan.rates[epoch]))
    return table


def _drawing(plan: LrPlan, width: int) -> str:
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plotsize(width, 18)
    for index, group in enumerate(plan.groups):
        plotext.plot(range(plan.epochs), [rates[index] for rates in plan.rates], label=group, marker="hd")
    if all(rate > 0 for rates in plan.rates for rate in rates):
        plotext.yscale("log")
    plotext.xlabel("epoch")
    plotext.ylabel("learning rate")
    plotext.xticks(sorted({round((plan.epochs - 1) * part / 5) for part in range(6)}))
    drawing: str = plotext.uncolorize(plotext.build())
    return drawing
