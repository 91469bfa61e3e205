"""One run from configuration to summary: the only module that knows the order of things."""

from __future__ import annotations

import logging
import math
import shlex
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import Any

from torch import nn

from harness.config import AUTO
from harness.data.dataset import Dataset, load_dataset
from harness.data.loader import Loader
from harness.errors import UserError, plural
from harness.files import WriteBehind
from harness.models.build import build_model
from harness.models.fitted import Resized
from harness.record import (
    CHECKPOINTS,
    COMPLETED,
    FAILED,
    INTERRUPTED,
    MODEL_FILE,
    EpochRow,
    Summary,
    finite,
    holds_run,
)
from harness.runs.checkpoints import Checkpoints, Examined, check_identity
from harness.runs.explained import explained
from harness.runs.folder import (
    check_places,
    enter,
    finished_summary,
    leave_behind,
    log_resumption,
    log_summary,
    write_record,
    write_summary,
)
from harness.runs.interruption import Interrupted, Interruption
from harness.runs.lock import held
from harness.runs.memory import automatic_batch
from harness.runs.pictures import draw, pictures
from harness.runs.profiling import StepProfile
from harness.runs.request import Request, Training
from harness.runs.tracking import Tracker
from harness.stages import identity as identities
from harness.stages.walk import Walk, epochs_text
from harness.training.devices import Compute, set_up
from harness.training.learner import Learner
from harness.training.loop import Batches, Predictions, Score, evaluate, read
from harness.training.optim import preview_optimizer
from harness.training.plan import LrPlan, plan_text, rates_text
from harness.training.schedule import make_plan
from harness.training.schedule_rules import plan_warnings
from harness.training.state import TrainState, save_tensors, weights_sha256
from harness.views.console import EpochDisplay
from harness.views.tensorboard import hyperparameters

log = logging.getLogger(__name__)


def run(request: Request) -> Summary:
    """Train, or continue, and return what summary.json then holds.

    Until everything is ready to train, nothing in the folder changes.

    Raises:
        UserError: for wrong settings, missing data or files that cannot be written.
        Interrupted: after a signal, when the run can be continued.
    """
    began = time.perf_counter()
    with held(request.folder):
        return _run_alone(request, began)


def _run_alone(request: Request, began: float) -> Summary:
    config, folder = request.config, request.folder
    if request.resume and (finished := finished_summary(folder, config)) is not None:
        log.info("this run is already completed; epochs=%d or more would train it further", config.epochs + 1)
        log_summary(finished, folder)
        return finished
    if not request.resume and holds_run(folder):
        raise UserError(f"{folder}: already holds a run; continue it with resume={folder}, or choose another folder")
    check_places(folder)
    # Before data and network are built, so that a wrong schedule is refused at once.
    preview = make_plan(config.scheduler, preview_optimizer(config.optimizer), config.epochs)
    for warning in plan_warnings(config.scheduler, preview):
        log.warning("schedule %s: %s", request.scheduler_name, warning)
    training = _prepare(request, preview, began)
    request = training.request
    examined = _continue(training) if request.resume else None
    try:
        enter(request)
        if examined is not None:
            examined.set_aside()
    except OSError as error:
        raise explained(error, training) from error
    try:
        with Interruption() as interruption, training.behind:
            try:
                summary = _completed(training, interruption)
            except BaseException:
                with suppress(UserError):  # of a write before, which is told of as what it is
                    _save_best(training)
                raise
    except Interrupted as interrupted:
        _stopped(training, interrupted)
        raise
    except Exception as error:
        told = explained(error, training)
        leave_behind(training, FAILED, told)
        raise told from error
    finally:
        training.learner.close()
    log_summary(summary, folder)
    interruption.stop_if_asked()
    return summary


def _completed(training: Training, interruption: Interruption) -> Summary:
    """Train what is left, and leave everything behind that a completed run does."""
    request = training.request
    write_record(training)
    hparams = hyperparameters(request.config, request.scheduler_name)
    with Tracker(request.folder, training.rows, hparams) as tracker:
        with training.walk:
            _train(training, tracker, interruption)
        facts = _tested(training, tracker, interruption)
    return write_summary(training, COMPLETED, **facts)


def _stopped(training: Training, interrupted: Interrupted) -> None:
    """Leave what there is, and say how far the run came and how it goes on."""
    folder, done, epochs = training.request.folder, len(training.rows), training.request.config.epochs
    interrupted.is_told = True
    leave_behind(training, INTERRUPTED)
    lost = done - max(training.checkpoints.files(), default=0)
    again = f", of which {plural(lost, 'epoch')} will be trained again" if lost > 0 else ""
    log.warning("stopped by %s after %d of %d epochs%s", interrupted.signal_name, done, epochs, again)
    log.warning("continue with: %s", shlex.join(["python", "train.py", f"resume={folder}"]))


def _prepare(request: Request, preview: LrPlan, began: float) -> Training:
    config = request.config
    compute = set_up(config)
    log.info("device %s, %s (%s)", compute.device, compute.precision, compute.reason)
    dataset = load_dataset(config.images)
    request = _with_batch_size(request, dataset, compute)
    config, count = request.config, len(dataset.train)
    batches = {min(config.batch_size, count), count % config.batch_size or config.batch_size}
    learner = Learner(
        config,
        compute,
        lambda: build_model(config.model, dataset.shape, len(dataset.classes), sorted(batches)),
        min(config.batch_size, count),
    )
    # Groups that the network has no parameters for are in the preview alone.
    plan = preview.of(list(learner.rates))
    _announce(request, dataset, learner.model, plan)
    identity, behind = identities.describe(config, dataset.facts, compute), WriteBehind()
    return Training(
        request=request,
        compute=compute,
        dataset=dataset,
        loader=Loader(dataset, config, compute.device),
        learner=learner,
        plan=plan,
        identity=identity,
        checkpoints=Checkpoints(request.folder / CHECKPOINTS, config.checkpoint.every, config.checkpoint.keep),
        behind=behind,
        walk=Walk(request.sharing, plan, identity, {"scheduler": request.scheduler_name, "seed": config.seed}, behind),
        rows=[],
        since=began,
    )


def _with_batch_size(request: Request, dataset: Dataset, compute: Compute) -> Request:
    """With the number of images that `batch_size=auto` comes to, which is recorded in its place."""
    config = request.config
    if config.batch_size != AUTO:
        return request
    model = build_model(config.model, dataset.shape, len(dataset.classes), [2])
    size = automatic_batch(model, dataset.shape, len(dataset.train), compute)
    log.info("batch_size=auto: %d", size)
    others = (text for text in request.overrides if text.lstrip("+").partition("=")[0] != "batch_size")
    overrides = (*others, f"batch_size={size}")
    return replace(request, config=config.model_copy(update={"batch_size": size}), overrides=overrides)


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
    log.info("schedule %s: %s", request.scheduler_name, plan_text(plan))


def _continue(training: Training) -> Examined:
    """Restore the latest state that the plan agrees with, from the run's own checkpoints or the stage store."""
    own = training.checkpoints.examine(lambda state: _agreement(training, state))
    stored = training.walk.latest(own.state.epoch if own.state is not None else 0)
    if stored is None and own.state is None and own.differs_at is not None:
        raise UserError(
            f"resume: the schedule differs from the trained one at epoch {own.differs_at}, and no state from before "
            "is kept; must agree up to a checkpoint or a stage, or start a new run"
        )
    for state in (own.state, stored):
        if state is not None:
            _go_on_from(training, state)
    log_resumption(training.request.folder, training.request.config, len(training.rows))
    return own


def _go_on_from(training: Training, state: TrainState) -> None:
    """Put a later state in place of the present one, rows included."""
    try:
        training.learner.load(state.learned, state.epoch)
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and type(error) is not RuntimeError:  # a device's own
            raise
        raise UserError(
            f"the state after epoch {state.epoch - 1} does not fit this network and optimizer "
            f"({' '.join(str(error).split())}); must be one that such a run left in {training.checkpoints.folder} or "
            "stages.dir; delete it there, or start a new run"
        ) from error
    training.rows += state.rows[len(training.rows) :]


def _agreement(training: Training, state: TrainState) -> int:
    check_identity(state, training.identity)
    if state.epoch > training.plan.epochs:
        raise UserError(
            f"epochs={training.plan.epochs}: this run has already trained {state.epoch} epochs; must be at least that"
        )
    return training.plan.agreement([row.lr for row in state.rows])


def _train(training: Training, tracker: Tracker, interruption: Interruption) -> None:
    config = training.request.config
    batches_an_epoch, saved = math.ceil(len(training.dataset.train) / config.batch_size), len(training.rows)
    profiler = StepProfile(training.request.folder, training.compute.device) if config.profile else None
    with EpochDisplay(config.epochs, batches_an_epoch) as display:
        while (epoch := len(training.rows)) < config.epochs:
            arrived = time.perf_counter()
            state = training.walk.arrive(epoch, interruption.stop_if_asked)
            training.since += time.perf_counter() - arrived
            if state is not None:
                _save_best(training)
                _take_over(training, state, tracker)
                saved = state.epoch
                continue
            batches = display.track(epoch, training.loader.train(epoch))
            if profiler is not None:
                batches = profiler.track(epoch, batches, batches_an_epoch, is_last=epoch + 1 == config.epochs)
            # Between checkpoints, finish the epoch: what it was begun from is not on the disk.
            row, score = _epoch(training, epoch, interruption.guard(batches, can_stop=saved == epoch))
            training.rows.append(row)
            tracker.epoch(row)
            _look_at_loss(training, score)
            display.finished(row)
            if _leave_state(training, interruption.asked):
                saved = epoch + 1
                interruption.stop_if_asked()  # a signal that comes after an epoch that is not saved waits for the next
    training.behind.wait()
    if profiler is not None and not profiler.is_done:
        log.warning("profile=true: no epoch was trained that could be profiled; resume=never trains them all")


def _leave_state(training: Training, is_asked: bool) -> bool:
    """After an epoch: leave the state to checkpoints and stage store as they are due; whether a checkpoint has it."""
    since, state_now, done = time.perf_counter(), cache(lambda: _state_now(training)), len(training.rows)
    is_best, leaves = training.best is training.rows[-1], training.walk.leaves(done)
    # Who continues the run from a state in the store passes by the best one: it has to be there by then.
    is_due = training.checkpoints.is_due(done, training.request.config.epochs) or (is_best and leaves)
    if is_due or is_asked:
        _save_checkpoint(training, state_now(), since)
    elif leaves:
        _save_best(training)
    elif is_best:
        _keep_best(training, state_now())
    training.walk.passed(done, state_now)
    return is_due or is_asked


def _epoch(training: Training, epoch: int, batches: Batches) -> tuple[EpochRow, Score]:
    """Train one epoch and validate; the score is that of the training."""
    rates = _rates(training, epoch)
    began = time.perf_counter()
    start = training.compute.moment()
    trained = training.learner.epoch(epoch, batches)
    end = training.compute.moment()
    score, val = read(trained, training.learner.score(training.loader.evaluation("val")))
    row = EpochRow(
        epoch=epoch,
        lr=rates,
        train_loss=finite(score.loss),
        train_accuracy=score.accuracy,
        val_loss=finite(val.loss),
        val_accuracy=val.accuracy,
        images_per_second=len(training.dataset.train) / end.seconds_since(start),
        seconds=time.perf_counter() - began,
        reused=False,
        wall_seconds=training.lap(),
    )
    return row, score


def _rates(training: Training, epoch: int) -> dict[str, float]:
    """The learning rates that the optimizer holds for this epoch; a change is announced."""
    rates = training.learner.rates
    if rates != training.plan.by_group(epoch):
        target = training.request.config.scheduler.target
        planned, now = rates_text(training.plan.by_group(epoch)), rates_text(rates)
        raise UserError(
            f"scheduler._target_={target}: gives epoch {epoch} the learning rate {now}, "
            f"and gave it {planned} when it was planned; must give the same each time"
        )
    if epoch > 0 and rates != (before := training.plan.by_group(epoch - 1)):
        log.info("epoch %d: learning rate %s -> %s", epoch, rates_text(before), rates_text(rates))
    return rates


def _look_at_loss(training: Training, score: Score) -> None:
    """Say in which epoch and step the loss stopped being a number, and end the run where that is asked for.

    By default it goes on: a schedule that diverges for some seeds is a result, and leaving those out would flatter it.
    """
    config, row = training.request.config, training.rows[-1]
    if not _is_lost(row) or (any(map(_is_lost, training.rows[:-1])) and not config.stop_on_nan):
        return
    step = "in validation" if score.lost_at is None else f"at step {score.lost_at}"
    where = f"training diverged in epoch {row.epoch} {step} at learning rate {rates_text(row.lr)}"
    half = ", precision=fp32" if training.compute.precision in ("bf16", "fp16") else ""
    advice = f"a lower optimizer.lr, a schedule that begins lower (scheduler=warmup_multistep){half} may help"
    if config.stop_on_nan:
        raise UserError(f"stop_on_nan=true: {where}; {advice}, or stop_on_nan=false goes on")
    log.warning("%s: losses that are no number are recorded as null; %s", where, advice)


def _is_lost(row: EpochRow) -> bool:
    return None in (row.train_loss, row.val_loss)


def _take_over(training: Training, state: TrainState, tracker: Tracker) -> None:
    """Go on from a state that another run trained; its epochs are recorded as if they had been trained here."""
    first = len(training.rows)
    _go_on_from(training, state)
    for row in training.rows[first:]:
        tracker.epoch(row)
    log.info("%s reused from the stage store", epochs_text(first, state.epoch - 1))
    training.lap()  # what it takes to take over is in no row
    if state.epoch == training.request.config.epochs:
        _save_checkpoint(training, _state_now(training), time.perf_counter())


def _state_now(training: Training) -> Callable[[], TrainState]:
    """The state at this moment, given by whatever thread asks for it; see `Aside`."""
    rows, aside = tuple(training.rows), training.learner.aside()
    return lambda: TrainState(len(rows), aside(), rows, training.identity)


def _keep_best(training: Training, state: Callable[[], TrainState]) -> None:
    """Have this state, which is the best one, written with the next one that is due; a GPU's memory is left at once."""
    training.best_state = training.best.epoch, state
    training.behind.give(lambda: _landed(state))


def _landed(state: Callable[[], TrainState]) -> None:
    state()


def _save_best(training: Training) -> None:
    """Write the best state where no file has it yet."""
    if training.best_state is not None:
        (epoch, state), training.best_state = training.best_state, None
        training.behind.give(training.checkpoints.saving([state], epoch, time.perf_counter()))


def _save_checkpoint(training: Training, state: Callable[[], TrainState], since: float) -> None:
    """Write this state, and before it the best one where no file has that yet."""
    best, (epoch, earlier) = training.best.epoch, training.best_state or (None, state)
    training.best_state = None
    training.behind.give(training.checkpoints.saving([earlier, state] if epoch == best else [state], best, since))


def _tested(training: Training, tracker: Tracker, interruption: Interruption) -> dict[str, Any]:
    """Look at the test set, once, with the final weights; write model and pictures, and return the facts of it."""
    model, autocast, predictions = training.learner.model, training.compute.autocast(), Predictions()
    batches = interruption.guard(training.loader.evaluation("test"), can_stop=True)
    test = evaluate(model, batches, autocast, predictions=predictions).score()
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    save_tensors(training.request.folder / MODEL_FILE, weights)
    results = {"best/val_accuracy": training.best.val_accuracy, "test/accuracy": test.accuracy, "test/loss": test.loss}
    draw(training)
    tracker.finish(training.request.config.epochs - 1, results, pictures(training, predictions))
    return {"test_loss": finite(test.loss), "test_accuracy": test.accuracy, "weights_sha256": weights_sha256(model)}
