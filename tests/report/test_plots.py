"""The pictures of a report keep to what can be, and leave room for what they show."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from support.run_folders import compared, raw, write_run

from harness.compare.metrics import ACCURACY, LOSS
from harness.report.plots import _fit, draw_rates


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


def test_no_axis_shows_accuracies_that_cannot_be(tmp_path: Path) -> None:
    epochs, low, mean, high = (0, 1), (-80.0, -70.0), (50.0, 60.0), (180.0, 190.0)
    for unit, (bottom, top) in {ACCURACY: (-0.4, 100.4), LOSS: (0.0, 250.0)}.items():
        axes = Figure().add_subplot()
        axes.fill_between(epochs, low, high)
        _fit(axes, np.array([epochs, low, mean, high]), unit)
        assert bottom <= axes.get_ylim()[0] < axes.get_ylim()[1] <= top
