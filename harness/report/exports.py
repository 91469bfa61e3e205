"""comparison.json: a comparison as plain values; `harness.compare.comparison` explains every key."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from harness.compare.comparison import CURVES, Comparison, Difference
from harness.compare.groups import Group, setting_text
from harness.compare.load import Run
from harness.compare.metrics import METRICS
from harness.compare.results import Band, Result, aggregate, epochs_to, seconds_to, throughput
from harness.compare.stats import Estimate
from harness.record import finite, flatten


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Only dictionaries, lists, text, booleans, null and finite numbers; numbers that are not finite become
    null.
    """
    main = comparison.main
    document = {
        "ranking": "final_val_accuracy",
        "target": {"accuracy": comparison.target_accuracy, "chosen": comparison.target_chosen},
        "baseline": {"label": comparison.baseline, "chosen": comparison.baseline_chosen},
        "main": None if main is None else _group(main, comparison.results),
        "tests": comparison.tests,
        "differences": [_difference(difference) for difference in comparison.differences],
        "leader": _leader(comparison),
        "decays": [_fields(decay) for decay in comparison.decays],
        "curves": {result.label: _curves(result) for result in comparison.leading(CURVES)},
        "apart": [
            {**_group(group, results), "differs": {key: list(pair) for key, pair in group.differs.items()}}
            for group, results in comparison.apart
        ],
        "budget": [_fields(point) for point in comparison.budget],
        "sharing": {"trained": comparison.epochs_trained, "reused": comparison.epochs_reused},
        "left_out": comparison.left_out,
        "equal_plans": comparison.equal_plans,
        "problems": comparison.runs.problems,
    }
    plain: dict[str, Any] = _plain(document)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return finite(value) if isinstance(value, float) else value


def _fields(record: Any) -> dict[str, Any]:
    """A flat dataclass as a dictionary, its estimates and bands with it."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return {name: _fields(value) if isinstance(value, Estimate | Band) else value for name, value in values.items()}


def _group(group: Group, results: tuple[Result, ...]) -> dict[str, Any]:
    return {
        "epochs": group.epochs,
        "identity": group.identity,
        "schedules": [_result(result) for result in results],
    }


def _result(result: Result) -> dict[str, Any]:
    variant = result.variant
    values = _fields(result)
    del values["variant"]
    return {
        "label": variant.label,
        "scheduler": variant.scheduler,
        "target": variant.target,
        "arguments": variant.arguments,
        "settings": variant.settings,
        "seeds": variant.seeds,
        "runs": [run.name for run in variant.runs],
        **values,
    }


def _difference(difference: Difference) -> dict[str, Any]:
    pair = difference.paired
    shape = pair.estimate
    return {
        "label": difference.label,
        "metric": difference.metric,
        "seeds": pair.seeds,
        "differences": pair.differences,
        "unpaired": difference.unpaired,
        "mean": shape.mean,
        "low": shape.low,
        "high": shape.high,
        "sd": shape.sd,
        "p_t": pair.p_t,
        "p_permutation": pair.p_permutation,
        "smallest_permutation_p": pair.smallest_permutation_p,
        "p_holm": difference.p_holm,
        "verdict": difference.verdict,
        "seeds_needed": difference.seeds_needed,
    }


def _leader(comparison: Comparison) -> dict[str, Any] | None:
    pair = comparison.leader
    if pair is None:
        return None
    best, second = comparison.results[:2]
    shape = pair.estimate
    return {
        "label": best.label,
        "runner_up": second.label,
        "seeds": pair.seeds,
        "mean": shape.mean,
        "low": shape.low,
        "high": shape.high,
    }


def _curves(result: Result) -> dict[str, Any]:
    return {metric: _fields(aggregate(result.variant.runs, metric)) for metric in METRICS}


def runs_csv(comparison: Comparison) -> str:
    """One line a run with all its settings, results and status; columns that no run fills are not there."""
    places = {
        run.name: (number, variant.label)
        for number, group in enumerate(comparison.groups)
        for variant in group.variants
        for run in variant.runs
    }
    rows = [_run_row(run, comparison, places.get(run.name)) for run in comparison.runs.runs]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _run_row(run: Run, comparison: Comparison, place: tuple[int, str] | None) -> dict[str, Any]:
    final = run.final
    target = comparison.target_accuracy
    settings = {**flatten(run.arguments, "scheduler.", lists=True), **run.identity}
    return {
        "run": run.name,
        "schedule": place[1] if place else run.scheduler,
        "group": "" if place is None else "main" if place[0] == 0 else f"apart {place[0]}",
        "status": run.status,
        "counted": "yes" if place else "no",
        "reason": comparison.left_out.get(run.name, ""),
        "seed": run.seed,
        "epochs": run.epochs,
        "final_val_accuracy": final.val_accuracy if final else None,
        "final_val_loss": final.val_loss if final else None,
        "best_val_accuracy": run.best_val_accuracy,
        "best_epoch": run.best_epoch,
        "final_train_accuracy": final.train_accuracy if final else None,
        "final_train_loss": final.train_loss if final else None,
        "test_accuracy": run.test_accuracy,
        "test_loss": run.test_loss,
        "epochs_to_target": epochs_to(run, target),
        "seconds_to_target": seconds_to(run, target),
        "images_per_second": throughput(run),
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
