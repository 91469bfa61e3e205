"""What TensorBoard is told beside scalars: hyperparameter columns, pictures, pages of charts, as summaries."""

from __future__ import annotations

import json
import shlex
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2 as layouts
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo

if TYPE_CHECKING:
    from harness.config import Config

# Tags of the result columns; each shows the last value of a scalar.
RESULTS = ("val/accuracy", "val/loss", "best/val_accuracy", "test/accuracy", "test/loss")

# TensorBoard takes its columns from whichever run it finds first, so every run names the same ones, also those that
# its own schedule does not have. What other schedules are set by is in `scheduler_arguments`.
_SHOWN = ("scheduler", "milestones", "gamma", "step_size", "seed")
COLUMNS = (
    *_SHOWN, "learning_rate", "scheduler_arguments", "epochs", "batch_size", "data", "model", "optimizer",
    "optimizer_arguments",
)  # fmt: skip
_NUMBERS = {"gamma", "step_size", "seed", "learning_rate", "epochs", "batch_size"}


def hyperparameters(config: Config, scheduler_name: str) -> dict[str, float | str]:
    """A run's values by name of column; lists and mappings, which TensorBoard refuses, as JSON text."""
    arguments = config.scheduler.arguments
    values: dict[str, Any] = {
        "scheduler": scheduler_name,
        **{name: arguments[name] for name in ("milestones", "gamma", "step_size") if name in arguments},
        "seed": config.seed,
        "learning_rate": config.optimizer.lr,
        "scheduler_arguments": arguments,
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "data": config.data.name,
        "model": getattr(config.model, "architecture", config.model.name),
        "optimizer": config.optimizer.target.rpartition(".")[2],
        "optimizer_arguments": config.optimizer.arguments,
    }
    return {name: v if isinstance(v, int | float | str) else json.dumps(v) for name, v in values.items()}


def hparams_summaries(values: Mapping[str, float | str]) -> tuple[Summary, Summary, Summary]:
    """The columns of the HPARAMS tab, this run's values in them, and the mark of a run that is completed.

    `values` holds some of `COLUMNS`; a column that is not in it stays empty in the run's row.
    """
    columns = [
        api_pb2.HParamInfo(
            name=name,
            type=api_pb2.DATA_TYPE_FLOAT64 if name in _NUMBERS else api_pb2.DATA_TYPE_STRING,
            # At first TensorBoard shows five columns, the differing ones before the others.
            differs=name in _SHOWN,
        )
        for name in COLUMNS
    ]
    results = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in RESULTS]
    start = SessionStartInfo()
    for name, value in values.items():
        if isinstance(value, str):
            start.hparams[name].string_value = value
        else:
            start.hparams[name].number_value = value
    return (
        _hparams(metadata.EXPERIMENT_TAG, experiment=api_pb2.Experiment(hparam_infos=columns, metric_infos=results)),
        _hparams(metadata.SESSION_START_INFO_TAG, session_start_info=start),
        _hparams(metadata.SESSION_END_INFO_TAG, session_end_info=SessionEndInfo(status=api_pb2.STATUS_SUCCESS)),
    )


def _hparams(tag: str, **content: Any) -> Summary:
    data = HParamsPluginData(version=metadata.PLUGIN_DATA_VERSION, **content)
    described = metadata.create_summary_metadata(data)
    return Summary(value=[Summary.Value(tag=tag, tensor=metadata.NULL_TENSOR, metadata=described)])


def picture_summary(tag: str, png: bytes) -> Summary:
    """A PNG as an image, as it is."""
    width, height = struct.unpack(">II", png[16:24])
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
    return Summary(value=[Summary.Value(tag=tag, image=image)])


def runs_layout() -> Summary:
    """The custom-scalars page that lays all runs over each other. Runs that name the same charts share them."""
    return page(
        "All runs",
        [
            line_chart("learning rate", "lr/.*"),
            line_chart("validation accuracy", "val/accuracy$"),
            line_chart("validation loss", "val/loss$"),
            line_chart("training loss", "train/loss$"),
        ],
    )


def line_chart(title: str, tags: str) -> layouts.Chart:
    """A chart of every run's scalars whose tag begins with a match of the regular expression `tags`."""
    return layouts.Chart(title=title, multiline=layouts.MultilineChartContent(tag=[tags]))


def page(title: str, charts: Sequence[layouts.Chart]) -> Summary:
    """A page of the custom-scalars tab."""
    layout = layouts.Layout(category=[layouts.Category(title=title, chart=charts)])
    tensor = TensorProto(dtype=DT_STRING, string_val=[layout.SerializeToString()], tensor_shape=TensorShapeProto())
    described = layout_metadata.create_summary_metadata()
    return Summary(value=[Summary.Value(tag=layout_metadata.CONFIG_SUMMARY_TAG, tensor=tensor, metadata=described)])


def opening_lines(folder: Path, tab: str) -> list[str]:
    """How a person looks at a folder's curves; `tab` is `scalars` or `custom_scalars`.

    By itself TensorBoard smooths, which makes slides of a learning rate's steps. Its TIME SERIES page goes by the first
    setting in the address, its older pages by the second.
    """
    return [
        f"curves: tensorboard --logdir {shlex.quote(str(folder))}",
        f"        http://localhost:6006/?smoothing=0#{tab}&_smoothingWeight=0",
    ]
