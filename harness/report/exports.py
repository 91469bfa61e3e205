"""What other programs read of a comparison: comparison.json, runs.csv and epochs.csv.

`comparison.json` is `to_json(compare(load_runs(folders)))` with what made it. A number that does not exist or is not
finite is null. Accuracies are fractions, losses nats, times seconds, epochs 0-based; an interval is Student's at 95 %.
An estimate is {n, mean, low, high, sd} over n runs (seeds). `*` stands for any key.

    schema: 1; more where a key has gone or means something else, not where one was added
    made
      tool, version, command: what was started, in the folder that relative paths are seen from
      time: UTC; kept as long as the same command makes a report with the same content
    ranking: the only metric that anything is ranked on
    target
      accuracy, chosen: the accuracy for `epochs_to_target` and how it was chosen
    baseline
      label, chosen: label null when there is nothing to compare
    main: the largest group of comparable runs, null without any
      epochs, identity
      schedules: best first; from late_val_accuracy to seconds_to_target estimates
        label, scheduler, target, arguments, settings, seeds, runs
        final_val_accuracy, best_val_accuracy, final_val_loss, test_accuracy, test_loss, best_epoch
        late_val_accuracy, late_val_loss: over the last tenth (two or more); a run that diverged has guessing's loss
        flattery: best accuracy less late accuracy
        spread: highest less lowest validation accuracy of the same epochs
        images_per_second: a run's median over epochs that it trained itself
        epochs_to_target, seconds_to_target: trained until three epochs' mean accuracy first met it, of runs that did
        reached: number of runs that met the target
    claims
      tests: every difference below that has a p value
      look, level: which look at these runs it is, from 1; the chance of any false claim at it
      margin: as given, a fraction; null without one
      withheld: why nothing is tested, or empty
      may_be_best
        late_val_accuracy, late_val_loss: the labels of which none is claimed to be worse than another
    differences: of all pairs, schedule less other, paired by seed; those with the baseline first
      label, other, seeds, mean, low, high, sd, p_t, p_permutation, smallest_permutation_p
      metric: late_val_accuracy or late_val_loss
      simultaneous: [low, high] of the interval that holds for all pairs at once
      p_corrected, p_equivalent: for tests and looks, to be compared with 0.05; the latter is of the margin
      p_sign: the chance of so many seeds agreeing with the mean's sign, were either as likely
      differences, unpaired: by seed; seeds that only one has
      verdict: better, worse, equivalent, undecided or no claim
      seeds_needed: null if decided
        observed, fewest, most: in all, for 80 % power at the next look's level, and its range; null: out of reach
    decays: a decay is a learning rate at most half of the epoch before; runs that diverged are left out
      label, epoch, factor: the first epoch at the new rate, and its part of the old one
      before, after: [first, last] epoch of the means: second half of the last and first ten, or as many as there are
      reference, same_state: the schedule without this decay, null without one; whether it had trained the same epochs
      accuracy_before, accuracy_after, accuracy_change, loss_before, loss_after, loss_change: estimates
      accuracy_effect, loss_effect: the change less that of the reference, paired by seed
    curves: of the schedules in curves.png, by label
      *
        train_loss, train_accuracy, val_loss, val_accuracy
          epochs, n, mean, low, high
    apart: groups that cannot be compared with the main one
      epochs, identity, schedules
      differs: {key: [main group's value, this group's]}
    budget: if a schedule was trained for three lengths or more, in runs that differ in nothing else
      label, epochs, seeds, decays: a schedule and a length; the epochs of its decays
      final_val_accuracy, final_val_loss, test_accuracy: estimates
    sharing
      trained, reused: epochs of all runs that left a summary
    left_out: {name of run: why it is in no statistic}
    equal_plans: sets of labels that have the same learning rate in every epoch; they are not merged
    problems: what was not sound in the files, sentences

`runs.csv` has a line for each run, `epochs.csv` one for each epoch of each run, counted or not: `schedule` is the label
where the run counts, `group` "main" or "apart 1" and so on, and empty where it does not count; `lr/*` is the rate of a
parameter group, empty in runs that lack it; the rest is as in metrics.jsonl. In both files a text that a spreadsheet
would take for a formula, as it begins with = + - or @, has a ' before it. Numbers are numbers, negative ones too.
"""

from __future__ import annotations

import csv
import io
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

import harness
from harness.compare.comparison import DRAWN, Comparison
from harness.compare.groups import Group, setting_text
from harness.compare.load import Run
from harness.compare.metrics import CURVES, LATE_ACCURACY, METRICS
from harness.compare.results import Result, aggregate
from harness.compare.verdicts import Difference
from harness.errors import printable
from harness.record import EpochRow, finite, flatten

SCHEMA = 1
TOOL = "lr-schedule-lab"


@dataclass(frozen=True)
class Made:
    """What made a report: the tool, its version, the command line and the time, ISO 8601 in UTC."""

    tool: str
    version: str
    command: str
    time: str


def made_now() -> Made:
    """By this process. Its command is what was typed: train.py changes `sys.argv`."""
    command = shlex.join(["python", *sys.orig_argv[1:]])
    return Made(TOOL, harness.__version__, command, datetime.now(UTC).isoformat(timespec="seconds"))


def with_time_kept(document: dict[str, Any], earlier: dict[str, Any]) -> dict[str, Any]:
    """The document, or the earlier one if it has the same content and was made by the same command.

    So a report that is made again has the same bytes, as a reader who compares two of them, or keeps them under version
    control, expects.
    """
    made = earlier.get("made")
    if not isinstance(made, dict) or not isinstance(time := made.get("time"), str):
        return document
    same = {**document, "made": {**document["made"], "time": time}}
    return same if same == earlier else document


def to_json(comparison: Comparison, made: Made | None = None) -> dict[str, Any]:
    """Only dictionaries, lists, text, booleans, null and finite numbers; numbers that are not finite become null."""
    main = comparison.main
    document = {
        "schema": SCHEMA,
        "made": asdict(made) if made else None,
        "ranking": LATE_ACCURACY.key,
        "target": {"accuracy": comparison.target_accuracy, "chosen": comparison.target_chosen},
        "baseline": {"label": comparison.baseline, "chosen": comparison.baseline_chosen},
        "main": None if main is None else _group(main, comparison.results),
        "claims": {
            "tests": comparison.tests,
            "look": comparison.look,
            "level": comparison.terms.level,
            "margin": comparison.terms.margin,
            "withheld": comparison.withheld,
            "may_be_best": comparison.contenders,
        },
        "differences": [_difference(difference) for difference in comparison.pairs],
        "decays": [asdict(decay) for decay in comparison.decays],
        "curves": {result.label: _curves(result) for result in comparison.leading(DRAWN)},
        "apart": [
            {**_group(group, results), "differs": {key: list(pair) for key, pair in group.differs.items()}}
            for group, results in comparison.apart
        ],
        "budget": [asdict(point) for point in comparison.budget],
        "sharing": {"trained": comparison.epochs_trained, "reused": comparison.epochs_reused},
        "left_out": comparison.left_out,
        "equal_plans": comparison.equal_plans,
        "problems": comparison.problems,
    }
    plain: dict[str, Any] = _plain(document)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return finite(value) if isinstance(value, float) else value


def _group(group: Group, results: tuple[Result, ...]) -> dict[str, Any]:
    return {"epochs": group.epochs, "identity": group.identity, "schedules": [_result(result) for result in results]}


def _result(result: Result) -> dict[str, Any]:
    variant = result.variant
    # What depends on the target comes last, beside how many runs met it.
    metrics = sorted(METRICS, key=lambda metric: metric.to_target)
    return {
        "label": variant.label,
        "scheduler": variant.scheduler,
        "target": variant.target,
        "arguments": variant.arguments,
        "settings": variant.settings,
        "seeds": variant.seeds,
        "runs": [run.name for run in variant.runs],
        **{metric.key: asdict(result.of(metric)) for metric in metrics},
        "reached": result.reached,
    }


def _difference(difference: Difference) -> dict[str, Any]:
    pair, shape = difference.paired, asdict(difference.paired.estimate)
    return {
        "label": difference.label,
        "other": difference.other,
        "metric": difference.metric.key,
        "seeds": pair.seeds,
        "differences": pair.differences,
        "unpaired": difference.unpaired,
        **{key: shape[key] for key in ("mean", "low", "high", "sd")},
        "p_t": pair.p_t,
        "p_permutation": pair.p_permutation,
        "smallest_permutation_p": pair.smallest_permutation_p,
        "p_sign": pair.p_sign if pair.seeds else None,
        "simultaneous": [difference.low, difference.high],
        "p_corrected": difference.p_corrected,
        "p_equivalent": difference.p_equivalent,
        "verdict": difference.verdict,
        "seeds_needed": asdict(difference.seeds_needed) if difference.seeds_needed else None,
    }


def _curves(result: Result) -> dict[str, Any]:
    return {curve.key: asdict(aggregate(result.variant.runs, curve.key)) for curve in CURVES}


def runs_csv(comparison: Comparison) -> str:
    """One line a run with all its settings, results and status; columns that no run fills are not there."""
    places = _places(comparison)
    rows = [_run_row(run, comparison, *places[run.name]) for run in comparison.runs]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells: list[list[Any]] = [columns, *([row.get(column) for column in columns] for row in rows)]
    return _csv_lines(map(_spreadsheet_cell, row) for row in cells)


def epochs_csv(comparison: Comparison) -> Iterator[str]:
    """One line an epoch of a run, given run by run, since there may be a hundred megabytes of them."""
    places = _places(comparison)
    names = list(dict.fromkeys(name for run in comparison.runs for row in run.log for name in row.lr))
    columns = [field.name for field in fields(EpochRow) if field.name not in ("epoch", "lr")]
    numbers = attrgetter(*columns)
    head = ["run", "schedule", "group", "seed", "epoch", *(f"lr/{name}" for name in names), *columns]
    yield _csv_lines([map(_spreadsheet_cell, head)])
    for run in comparison.runs:
        its = [*map(_spreadsheet_cell, (run.name, *places[run.name])), run.seed]
        yield _csv_lines([*its, row.epoch, *(row.lr.get(name) for name in names), *numbers(row)] for row in run.log)


def _places(comparison: Comparison) -> dict[str, tuple[str, str]]:
    """By the name of each run its schedule and its group, which is empty for a run that does not count."""
    places = {run.name: (run.scheduler, "") for run in comparison.runs}
    for number, group in enumerate(comparison.groups):
        name = f"apart {number}" if number else "main"
        places.update({run.name: (variant.label, name) for variant in group.variants for run in variant.runs})
    return places


def _csv_lines(rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


# Some programs take away spaces and quotes at the beginning before they look; the last four are the wide forms.
_FORMULA = re.compile(r"[\s'\"]*[=+@\-\uFF1D\uFF0B\uFF0D\uFF20]")


def _spreadsheet_cell(value: Any) -> Any:
    """The value as a cell that no program runs as a formula; numbers, as such or as text, stay what they are."""
    if not isinstance(value, str):
        return value
    text = printable(value, kept="")
    return f"'{text}" if _FORMULA.match(text) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text, re.ASCII) is not None


def _run_row(run: Run, comparison: Comparison, schedule: str, group: str) -> dict[str, Any]:
    final = run.final
    values = {m.key: m.of_run(run, comparison.target_accuracy) for m in METRICS if m.in_runs_csv}
    settings = {**flatten(run.arguments, "scheduler.", lists=True), **run.identity}
    return {
        "run": run.name,
        "schedule": schedule,
        "group": group,
        "status": run.status,
        "counted": "yes" if group else "no",
        "reason": comparison.left_out.get(run.name, ""),
        "seed": run.seed,
        "epochs": run.epochs,
        **{key: values[key] for key in ("final_val_accuracy", "final_val_loss", "best_val_accuracy", "best_epoch")},
        "final_train_accuracy": final.train_accuracy if final else None,
        "final_train_loss": final.train_loss if final else None,
        **values,
        "seconds": run.seconds,
        "epochs_trained": run.epochs_trained,
        "epochs_reused": run.epochs_reused,
        "weights_sha256": run.weights,
        "scheduler": run.scheduler,
        "scheduler_target": run.target,
        **{key: setting_text(value) for key, value in settings.items() if key not in ("seed", "epochs")},
        "overrides": " ".join(run.overrides),
        "folder": str(run.folder),
    }
