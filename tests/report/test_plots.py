"""The pictures of a report keep to what can be, and leave room for what they show."""

from __future__ import annotations

import io
import json
import re
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from support.run_folders import compared, raw, write_pairs, write_run, write_sweep

from harness.compare.metrics import ACCURACY, LOSS, Unit
from harness.report.drawing import COLUMN
from harness.report.plots import PICTURES, _differences, _fit, _reach, draw_differences, draw_rates
from harness.views.style import log_axis


def test_a_long_legend_leaves_the_axes_their_room(tmp_path: Path) -> None:
    for index in range(7):
        identity = {"optimizer.a_setting_with_a_very_long_name": index, "optimizer.weight_decay": index}
        overrides = [f"{key}={index}" for key in identity]
        folder = write_run(tmp_path / str(index), identity=identity, overrides=overrides)
        lines = raw(folder)
        for line in lines:
            line["lr"] = {f"group{number}": 0.1**number for number in range(4)}
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = compared(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "constrained_layout not applied")  # the layout leaves no room
        drawing = draw_rates(found)
    with Image.open(io.BytesIO(drawing.png)) as picture:
        assert picture.height > 540 + 28 * 25


def fitted(unit: Unit, *curves: list[float]) -> tuple[float, float]:
    """The limits of an axis for these means, whose intervals reach 100 to each side."""
    axes = Figure().add_subplot()
    bands = [np.array([range(len(c)), np.array(c) - 100, c, np.array(c) + 100]) for c in curves]
    _fit(axes, np.hstack(bands), unit)
    return axes.get_ylim()


def test_no_axis_shows_accuracies_that_cannot_be() -> None:
    assert fitted(ACCURACY, [40.0, 30.0, 0.5, 45.0])[0] == -0.4
    assert fitted(ACCURACY, [60.0, 70.0, 55.0, 99.9])[1] == 100.4


def test_the_late_epochs_set_the_limits_whatever_the_first_ones_and_a_diverged_schedule_did() -> None:
    late = [0.30, 0.20, 0.21, 0.19]
    low, high = fitted(LOSS, [90.0, 5.0, 2.0, *late], [80.0, 4.0, 1.0, *late], [1e3, 1e5, 1e7, 1e9, 1e11, 1e13, 1e15])
    assert 0.1 < low < 0.19 < 0.30 < high < 1.0
    assert 0.1 < fitted(LOSS, late, [1e9] * 4)[0] < fitted(LOSS, late, [1e9] * 4)[1] < 1.0
    low, high = fitted(ACCURACY, [10.0, 30.0, 91.0, 92.0], [10.0, 40.0, 93.0, 94.0], [10.0] * 4)
    assert 80.0 < low < 91.0 < 94.0 < high < 100.0


@pytest.mark.parametrize("limits", [(0.19, 0.21), (0.024, 0.058), (0.05, 5.0), (0.04, 200.0), (1e-6, 1e3)])
def test_the_numbers_of_a_logarithmic_axis_do_not_lie_over_each_other(limits: tuple[float, float]) -> None:
    figure = Figure(figsize=(3, 2))
    axes = figure.add_subplot()
    axes.set_ylim(*limits)
    log_axis(axes)
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in axes.get_yticklabels(which="both") if label.get_text()]
    boxes = sorted((box.y0, box.y1) for box in boxes if axes.bbox.y0 <= (box.y0 + box.y1) / 2 <= axes.bbox.y1)
    assert len(boxes) >= 2
    assert all(below[1] <= above[0] for below, above in pairwise(boxes))


def test_differences_are_drawn_seed_by_seed_in_points_and_nats(tmp_path: Path) -> None:
    write_pairs(tmp_path, [0.70, 0.71, 0.72], [0.80, 0.812, 0.819])
    accuracy, loss = _differences(compared(tmp_path), COLUMN).axes
    dots = next(line for line in accuracy.lines if line.get_marker() == "o")
    assert dots.get_xdata() == pytest.approx([10.0, 10.2, 9.9])
    means = [line.get_xdata()[0] for line in accuracy.lines if line.get_marker() == "D"]
    assert means == pytest.approx([10.0333], abs=1e-4)
    assert accuracy.get_xlabel() == "late accuracy (points)\nbetter →"
    assert loss.get_xlabel() == "late loss (nats)\n← better"


def test_a_diverged_alternative_does_not_squash_the_others_and_is_named_at_the_edge(tmp_path: Path) -> None:
    for index, accuracy in enumerate((0.90, 0.91, 0.895, 0.1)):
        for seed in (0, 1):
            value = accuracy + 0.001 * index * seed
            name = "constant" if not index else f"s{index}"
            write_run(tmp_path / f"{name} {seed}", name, seed, 1, val_accuracy=[value])
    found = compared(tmp_path)
    low, high = _reach([difference for difference in found.differences if difference.metric.unit is ACCURACY])
    assert -3 < low < -0.5
    assert 1.0 < high < 3
    texts = [text.get_text().strip() for text in _differences(found, COLUMN).axes[0].texts]
    assert texts == ["◀ -79.8"]


def test_figures_for_papers_are_a_column_wide_with_text_of_seven_points(tmp_path: Path) -> None:
    found = compared(write_sweep(tmp_path, seeds=2))
    for draw in PICTURES.values():
        if (drawing := draw(found)) is None:
            continue
        svg = drawing.paper[".svg"].decode()
        assert re.search(r'width="237\.6pt"', svg)
        assert set(re.findall(r'<text style="[^"]*?([\d.]+)px', svg)) == {"7"}
        assert b"/FontFile2" in drawing.paper[".pdf"]


def test_names_that_no_font_can_write_raise_no_warning_and_stay_text_for_the_browser(tmp_path: Path) -> None:
    name = r"$\no formula$ 学習率"
    write_run(tmp_path / "a", "constant")
    write_run(tmp_path / "b", name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawing = draw_differences(compared(tmp_path))
    assert drawing is not None
    assert f">{name}</text>" in drawing.svg
