"""The grid behind a heat map: which two settings a sweep varied, and the result in each cell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.compare.groups import setting_text
from harness.compare.metrics import LATE_ACCURACY
from harness.compare.results import Result


@dataclass(frozen=True)
class Grid:
    """Mean late validation accuracy (fraction) by two settings of one schedule; None where nothing was run."""

    schedule: str
    row_name: str
    column_name: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    means: tuple[tuple[float | None, ...], ...]


def find_grid(results: Sequence[Result]) -> Grid | None:
    """The grid of the schedule with most variants, None unless exactly two of its settings vary together.

    One varying list of numbers, such as two milestones, is taken as one setting an element.
    """
    by_name: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_name[result.variant.scheduler].append(result)
    if not by_name:
        return None
    name, family = max(by_name.items(), key=lambda item: len(item[1]))
    settings = [{**result.variant.arguments, **result.variant.settings} for result in family]
    varying = _varying(settings)
    if len(varying) == 1:
        settings = [_elements(varying[0], setting.get(varying[0])) for setting in settings]
        varying = _varying(settings)
    if len(varying) != 2 or any(key not in setting for key in varying for setting in settings):
        return None
    row_key, column_key = varying
    cells = {
        (setting_text(setting[row_key]), setting_text(setting[column_key])): result.of(LATE_ACCURACY).mean
        for setting, result in zip(settings, family, strict=True)
    }
    rows = _in_order([setting[row_key] for setting in settings])
    columns = _in_order([setting[column_key] for setting in settings])
    # Two settings that always change together are a list of variants, not a grid.
    if len(cells) < len(family) or len(cells) < max(len(rows), len(columns)) + 1:
        return None
    means = tuple(tuple(cells.get((row, column)) for column in columns) for row in rows)
    return Grid(name, row_key, column_key, rows, columns, means)


def _varying(settings: Sequence[dict[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for setting in settings for key in setting)
    return [key for key in keys if len({setting_text(setting.get(key)) for setting in settings}) > 1]


def _elements(key: str, value: object) -> dict[str, Any]:
    if not isinstance(value, list):
        return {}
    return {f"{key}[{index}]": item for index, item in enumerate(value)}


def _in_order(values: Sequence[object]) -> tuple[str, ...]:
    """Distinct values as text: numbers and lists of numbers by size, everything else by its text."""

    def size(value: object) -> tuple[int, list[float], str]:
        items = value if isinstance(value, list) else [value]
        numbers = [float(item) for item in items if isinstance(item, int | float)]
        return (0, numbers, "") if len(numbers) == len(items) else (1, [], setting_text(value))

    return tuple(dict.fromkeys(setting_text(value) for value in sorted(values, key=size)))
