"""One run from configuration to summary: the only module that knows the order of things."""

from __future__ import annotations

import logging
import math
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from filelock import FileLock, Timeout
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from harness import identity as identities
from harness.config import Config
from harness.console import EpochDisplay, rates_text
from harness.data import Dataset, Loader, load_dataset
from harness.devices import Compute, set_up
from harness.engine import evaluate, train_epoch
from harness.errors import UserError
from harness.files import write_json
from harness.interruption import Interrupted, Interruption
from harness.models import Resized, build_model
from harness.optim import build_optimizer, preview_optimizer
from harness.predictions import Recorder
from harness.results import RUN, SUMMARY, finished_summary, summary_lines
from harness.schedule import LrPlan, build_scheduler, make_plan, plan_warnings, step
from harness.seeding import seed_global
from harness.state import Checkpoints, TrainState, capture, check_identity, restore, save_tensors, weights_sha256
from harness.tensorboard import hyperparameters
from harness.tracking import METRICS, Tracker

log = logging.getLogger(__name__)

MODEL, CURVES = "model.pt", "curves.png"


@dataclass(frozen=True)
class Request:
    """What to run: the configuration, the schedule's name, the folder for the results, and whether that folder
    holds a run to continue. `command` is what the user typed, for messages."""

    config: Config
    scheduler_name: str
    folder: Path
    resume: bool
    command: tuple[str, ...] = ("python", "train.py")


def run(request: Request) -> dict[str, Any]:
    """Train, or continue, and return the content of summary.json.

    Raises:
        UserError: for wrong settings, missing data or files that cannot be written.
        Interrupted: after SIGINT or SIGTERM, when the run can be continued.
    """
    request.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(request.folder / ".lock")
    try:
        with lock.acquire(blocking=False):
            return _run_alone(request)
    except Timeout:
        raise UserError(
            f"{request.folder}: another process is training in this folder; wait for it, or stop it"
        ) from None


def record_failure(folder: Path, error: BaseException, fields: Mapping[str, Any]) -> None:
    """Write a summary with status `failed`, unless a run already left results there."""
    if not (folder / SUMMARY).exists() and not (folder / METRICS).exists():
        write_json(folder / SUMMARY, {"status": "failed", **fields, "error": _error_text(error)})


@dataclass
class _Training:
    """The live objects of a run."""

    request: Request
    compute: Compute
    dataset: Dataset
    loader: Loader
    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    scaler: torch.amp.GradScaler
    plan: LrPlan
    identity: dict[str, Any]
    checkpoints: Checkpoints
    rows: list[dict[str, Any]]

    @property
    def best(self) -> dict[str, Any]:
        """The epoch with the highest validation accuracy; the first of equals."""
        return max(self.rows, key=lambda row: row["val_accuracy"])


def _run_alone(request: Request) -> dict[str, Any]:
    config, folder = request.config, request.folder
    if request.resume and (finished := finished_summary(folder, config)) is not None:
        log.info("this run is already completed; epochs=%d or more would train it further", config.epochs + 1)
        _log_lines(summary_lines(finished, folder))
        return finished
    if not request.resume and ((folder / METRICS).exists() or (folder / SUMMARY).exists()):
        raise UserError(f"{folder}: already holds a run; continue it with resume={folder}, or choose another folder")
    for warning in plan_warnings(config.scheduler, _preview(config)):
        log.warning("schedule %s: %s", request.scheduler_name, warning)
    training = _prepare(request)
    _continue_from_checkpoint(training)
    write_json(folder / RUN, _run_record(training))
    try:
        with Tracker(folder, training.rows, hyperparameters(config, request.scheduler_name)) as tracker:
            _train(training, tracker)
            return _finish(training, tracker)
    except Interrupted as interrupted:
        _leave_behind(training, "interrupted")
        log.warning("stopped by %s after %d of %d epochs", interrupted.signal_name, len(training.rows), config.epochs)
        log.warning("continue with: %s", shlex.join([*request.command, f"resume={folder}"]))
        raise
    except Exception as error:
        explained = _explained(error, config)
        _leave_behind(training, "failed", error=_error_text(explained))
        raise explained from error


def _preview(config: Config) -> LrPlan:
    """The plan before data and network are built, so that a wrong schedule is refused at once."""
    return make_plan(config.scheduler, preview_optimizer(config.optimizer), config.epochs)


def _prepare(request: Request) -> _Training:
    config = request.config
    compute = set_up(config)
    log.info("device %s, %s (%s)", compute.device, compute.precision, compute.reason)
    dataset = load_dataset(config.data)
    count = len(dataset.train)
    batches = {min(config.batch_size, count), count % config.batch_size or config.batch_size}
    seed_global(config.seed, "initial weights")
    model = build_model(config.model, dataset.shape, len(dataset.classes), sorted(batches))
    model = model.to(compute.device).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(config.optimizer, model)
    plan = make_plan(config.scheduler, optimizer, config.epochs)
    _announce(request, dataset, model, plan)
    return _Training(
        request=request,
        compute=compute,
        dataset=dataset,
        loader=Loader(dataset, config.data, config.batch_size, config.seed, compute.device),
        model=model,
        optimizer=optimizer,
        scheduler=build_scheduler(config.scheduler, optimizer),
        scaler=compute.scaler(),
        plan=plan,
        identity=identities.describe(config, dataset, compute),
        checkpoints=Checkpoints(request.folder / "checkpoints", config.checkpoint.every, config.checkpoint.keep),
        rows=[],
    )


def _announce(request: Request, dataset: Dataset, model: nn.Module, plan: LrPlan) -> None:
    config = request.config
    channels, height, width = dataset.shape
    log.info(
        "data %s: %d training, %d validation and %d test images of %dx%dx%d, %d classes",
        config.data.name, len(dataset.train), len(dataset.val), len(dataset.test), height, width, channels,
        len(dataset.classes),
    )  # fmt: skip
    parameters = sum(parameter.numel() for parameter in model.parameters())
    log.info("model %s: %s parameters", getattr(config.model, "architecture", config.model.name), f"{parameters:,}")
    if isinstance(model, Resized):
        log.info("images are scaled to %dx%d, which this network needs", model.size, model.size)
    log.info(
        "schedule %s: learning rate %s, %d change%s in %d epochs",
        request.scheduler_name, rates_text(plan.by_group(0)), len(plan.changes),
        "" if len(plan.changes) == 1 else "s", plan.epochs,
    )  # fmt: skip


def _continue_from_checkpoint(training: _Training) -> None:
    """Restore the latest state that the plan agrees with, and bring the scheduler to its epoch."""
    if not training.request.resume:
        return
    state = training.checkpoints.latest(lambda found: _agreement(training, found))
    if state is None:
        log.info("no checkpoint to continue from: starting at epoch 0")
        return
    for _ in range(state.epoch):
        step(training.optimizer, training.scheduler)
    restore(state, training.model, training.optimizer, training.scaler)
    training.rows += state.rows
    log.info("continuing at epoch %d", state.epoch)


def _agreement(training: _Training, state: TrainState) -> int:
    check_identity(state, training.identity)
    if state.epoch > training.plan.epochs:
        raise UserError(
            f"epochs={training.plan.epochs}: this run has already trained {state.epoch} epochs; must be at least that"
        )
    return training.plan.agreement([row["lr"] for row in state.rows])


def _train(training: _Training, tracker: Tracker) -> None:
    config, compute = training.request.config, training.compute
    network = cast(nn.Module, torch.compile(training.model)) if config.compile else training.model
    batches_an_epoch = math.ceil(len(training.dataset.train) / config.batch_size)
    autocast, saved = compute.autocast(), len(training.rows)
    with Interruption() as interruption, EpochDisplay(config.epochs, batches_an_epoch) as display:
        for epoch in range(len(training.rows), config.epochs):
            rates = _rates(training, epoch)
            seed_global(config.seed, "training", epoch)
            batches = display.track(epoch, training.loader.train(epoch))
            began = time.perf_counter()
            score = train_epoch(
                network,
                # Between checkpoints, finish the epoch: what it was begun from is not on the disk.
                interruption.guard(batches, can_stop=saved == epoch),
                training.optimizer,
                training.scheduler,
                training.scaler,
                autocast,
            )
            compute.synchronize()
            trained = time.perf_counter()
            val = evaluate(network, training.loader.evaluation("val"), autocast)
            row = {
                "epoch": epoch,
                "lr": rates,
                "train_loss": _finite(score.loss),
                "train_accuracy": score.accuracy,
                "val_loss": _finite(val.loss),
                "val_accuracy": val.accuracy,
                "images_per_second": len(training.dataset.train) / (trained - began),
                "seconds": time.perf_counter() - began,
                "reused": False,
            }
            training.rows.append(row)
            _warn_if_diverged(training.rows)
            tracker.epoch(row)
            display.finished(row)
            is_due = training.checkpoints.is_due(epoch + 1, config.epochs, training.best["epoch"])
            if is_due or interruption.asked:
                _save_checkpoint(training)
                saved = epoch + 1
            if epoch + 1 < config.epochs:
                interruption.stop_if_asked()


def _rates(training: _Training, epoch: int) -> dict[str, float]:
    """The learning rates that the optimizer holds for this epoch; a change is announced."""
    rates = {group["name"]: float(group["lr"]) for group in training.optimizer.param_groups}
    if rates != training.plan.by_group(epoch):
        raise RuntimeError(f"epoch {epoch} has the rates {rates}, the plan says {training.plan.by_group(epoch)}")
    if epoch > 0 and rates != (before := training.plan.by_group(epoch - 1)):
        log.info("epoch %d: learning rate %s -> %s", epoch, rates_text(before), rates_text(rates))
    return rates


def _finite(value: float) -> float | None:
    """The value, or None, JSON's null, for NaN and infinities."""
    return value if math.isfinite(value) else None


def _warn_if_diverged(rows: list[dict[str, Any]]) -> None:
    """Say in which epoch the loss stopped being a number.

    The run goes on: a schedule that diverges for some seeds is a result, and leaving those out would flatter it.
    """
    lost = [None in (row["train_loss"], row["val_loss"]) for row in rows]
    if lost[-1] and not any(lost[:-1]):
        log.warning(
            "training diverged in epoch %d at learning rate %s: losses that are no number are recorded as null",
            rows[-1]["epoch"],
            rates_text(rows[-1]["lr"]),
        )


def _save_checkpoint(training: _Training) -> None:
    state = capture(training.model, training.optimizer, training.scaler, training.rows, training.identity)
    training.checkpoints.save(state, training.best["epoch"])


def _finish(training: _Training, tracker: Tracker) -> dict[str, Any]:
    """Look at the test set, once, with the final weights; write what a finished run leaves behind and print it."""
    recorder = Recorder(training.model, training.dataset.test.labels.to(training.compute.device))
    test = evaluate(recorder, training.loader.evaluation("test"), training.compute.autocast())
    weights = {name: value.detach().cpu().contiguous() for name, value in training.model.state_dict().items()}
    save_tensors(training.request.folder / MODEL, weights)
    results = {
        "best/val_accuracy": training.best["val_accuracy"],
        "test/accuracy": test.accuracy,
        "test/loss": test.loss,
    }
    tracker.finish(training.request.config.epochs - 1, results, _pictures(training, recorder))
    summary = _write_summary(
        training,
        "completed",
        test_loss=_finite(test.loss),
        test_accuracy=test.accuracy,
        weights_sha256=weights_sha256(training.model),
    )
    _log_lines(summary_lines(summary, training.request.folder))
    return summary


def _log_lines(lines: Sequence[str]) -> None:
    for line in lines:
        log.info("%s", line)


def _write_summary(training: _Training, status: str, **results: Any) -> dict[str, Any]:
    """Write summary.json, a run's last file; what a run that did not complete lacks is null."""
    rows, config = training.rows, training.request.config
    reused = sum(row["reused"] for row in rows)
    summary: dict[str, Any] = {
        "status": status,
        "scheduler": training.request.scheduler_name,
        "seed": config.seed,
        "epochs": config.epochs,
        "epochs_trained": len(rows) - reused,
        "epochs_reused": reused,
        "final_val_accuracy": rows[-1]["val_accuracy"] if rows else None,
        "best_val_accuracy": training.best["val_accuracy"] if rows else None,
        "best_epoch": training.best["epoch"] if rows else None,
        "test_loss": None,
        "test_accuracy": None,
        "weights_sha256": None,
        "seconds": sum(row["seconds"] for row in rows),
        "device": training.compute.device_name,
        "versions": identities.versions(),
        **results,
    }
    write_json(training.request.folder / SUMMARY, summary)
    return summary


def _leave_behind(training: _Training, status: str, **results: Any) -> None:
    """Summary and pictures of a run that did not complete, as far as they can be written."""
    try:
        _write_summary(training, status, **results)
        _draw(training)
    except UserError as error:
        log.warning("%s", error)


def _draw(training: _Training) -> None:
    # Imported when the training is over: a run that draws nothing yet need not wait for it.
    from harness.plots import plot_curves, plot_plan

    folder, name = training.request.folder, training.request.scheduler_name
    plot_plan(folder / "lr.png", training.plan, f"schedule {name}")
    if training.rows:
        plot_curves(folder / CURVES, training.rows, training.plan, f"{training.request.config.data.name}, {name}")


def _pictures(training: _Training, recorder: Recorder) -> dict[str, bytes]:
    """Draw the run's files, and return what TensorBoard shows as PNG by tag."""
    from harness.pictures import picture_tags

    _draw(training)
    curve = (training.request.folder / CURVES).read_bytes()
    pictures = picture_tags(training.dataset.test, recorder, training.dataset.classes)
    return {"pictures/learning_curve": curve, **pictures}


def _run_record(training: _Training) -> dict[str, Any]:
    request, plan = training.request, training.plan
    return {
        "scheduler": request.scheduler_name,
        "scheduler_target": request.config.scheduler.target,
        "scheduler_arguments": request.config.scheduler.arguments,
        "seed": request.config.seed,
        "epochs": request.config.epochs,
        "groups": plan.groups,
        "plan_changes": [{"epoch": c.epoch, "lr": plan.by_group(c.epoch)} for c in plan.changes],
        "identity": training.identity,
        "config": identities.plain(request.config),
    }


def _error_text(error: BaseException) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _explained(error: Exception, config: Config) -> Exception:
    """A user's error in place of torch's where the user can mend it."""
    if isinstance(error, torch.OutOfMemoryError):
        return UserError(f"batch_size={config.batch_size}: out of memory on {config.device}; must be smaller ({error})")
    if "does not have a deterministic implementation" in str(error):
        return UserError(f"deterministic=true: this network cannot keep it here, must be false ({error})")
    return error
