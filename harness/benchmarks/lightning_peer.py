"""PyTorch Lightning's Trainer on the same work.

The module and the loader are as its documentation shows them: `training_step` returns the loss and logs its mean over
the epoch, the DataLoader has persistent workers and pinned memory. Logger, checkpoints, progress bar and summary, which
are on by default, are off, since the timed part of the other contestants has none either; nor is there validation.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from typing import Any

import lightning
import torch
from torch import Tensor

from harness.benchmarks.study import Row
from harness.benchmarks.work import WARM_UP_STEPS, Batches, Work
from harness.data.loader import Loader
from harness.training.schedule import build_scheduler
from harness.training.steps import training_objective

_PRECISIONS = {"fp32": "32-true", "tf32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def measure(work: Work, loader: Loader | Batches) -> Row:
    """Train with this harness's loader, then also in its memory format and with its fused optimizer, or with a
    DataLoader."""
    # Advice on loggers and workers, which are as they are on purpose.
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    own = isinstance(loader, Loader)
    module = _Module(work, torch.channels_last if own else torch.contiguous_format, fused=own)
    on_cuda = work.device.type == "cuda"
    trainer = lightning.Trainer(
        accelerator="gpu" if on_cuda else "cpu", devices=[work.device.index] if on_cuda else 1,
        precision=_PRECISIONS[work.compute.precision], max_epochs=work.epochs + 1,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, _Epochs(loader, work.steps) if isinstance(loader, Loader) else loader)
    treatment = work.treatment(module.network, trainer.optimizers[0])
    return work.result(module.seconds, module.loss, module.images, module.steps, treatment)


class _Module(lightning.LightningModule):  # type: ignore[misc]
    """Also times the epochs after the first, which is the warm-up, from the start of one to the end of the last."""

    def __init__(self, work: Work, own: torch.memory_format, fused: bool) -> None:
        super().__init__()
        self.work, self.layout = work, work.layout(own)
        model = work.model(own)
        self.optimizer, self.network = work.optimizer(model, fused), work.compiled(model)
        self.objective = training_objective(work.config)
        self.images = self.steps = 0

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            self.images = self.steps = 0
            self.began = self.work.now()

    def on_train_batch_start(self, _batch: object, index: int) -> int | None:
        """Lightning leaves the rest of the epoch out at -1: the end of the warm-up."""
        return -1 if self.current_epoch == 0 and index == WARM_UP_STEPS else None

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        images, labels = batch
        loss = self.objective(self.network(images.contiguous(memory_format=self.layout)), labels)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        self.images, self.steps = self.images + len(labels), self.steps + 1
        return loss

    def on_train_epoch_end(self) -> None:
        if self.current_epoch >= 1:
            self.loss = float(self.trainer.callback_metrics["train_loss"])
            self.seconds = self.work.now() - self.began

    def configure_optimizers(self) -> dict[str, Any]:
        scheduler = build_scheduler(self.work.config.scheduler, self.optimizer)
        return {"optimizer": self.optimizer, "lr_scheduler": scheduler}


class _Epochs:
    """This harness's loader as an iterable that begins the next epoch each time."""

    def __init__(self, loader: Loader, steps: int) -> None:
        self._loader, self._steps, self._epoch = loader, steps, 0

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self._epoch += 1
        return iter(self._loader.train(self._epoch))
