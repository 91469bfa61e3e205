"""comparison.json: a comparison as plain values; `harness.compare` explains every key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from math import isfinite
from typing import Any

from harness.compare import CURVES, METRICS, Band, Comparison, Difference, Group, Result, aggregate
from harness.compare_stats import Estimate


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
    if isinstance(value, float) and not isfinite(value):
        return None
    return value


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
