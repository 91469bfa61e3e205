"""The pictures of a run.

What draws is imported when the training is over: a run that draws nothing yet need not wait for it.
"""

from __future__ import annotations

from torch import Tensor

from harness.record import CURVES_PICTURE, PLAN_PICTURE
from harness.runs.request import Training
from harness.training.loop import Predictions


def draw(training: Training) -> None:
    """Write the picture of the schedule and, where an epoch was trained, that of the learning curves.

    Raises as `files.write_atomic`.
    """
    from harness.views.curves import plot_curves, plot_plan

    folder, name = training.request.folder, training.request.scheduler_name
    plot_plan(folder / PLAN_PICTURE, training.plan, f"schedule {name}")
    if training.rows:
        title = f"{training.request.config.data.name}, {name}"
        plot_curves(folder / CURVES_PICTURE, training.rows, training.plan, title)


def pictures(training: Training, predictions: Predictions) -> dict[str, bytes]:
    """What TensorBoard shows of a finished run, as PNG by tag."""
    from harness.views.mistakes import picture_tags

    test, classes = training.dataset.test, training.dataset.classes
    curve = (training.request.folder / CURVES_PICTURE).read_bytes()

    def read(index: Tensor) -> Tensor:
        return test.images.take(index).decoded().pixels

    mistakes = picture_tags(read, test.labels, predictions.predicted, predictions.losses, classes)
    return {"pictures/learning_curve": curve, **mistakes}
