"""Run folders, read from disk: what is sound becomes a `Run`, what is not becomes a line of `problems`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import UserError, printable
from harness.files import changed, read_file, read_sealed, unsealed
from harness.record import (
    EARLIER_OVERRIDES,
    HYDRA,
    METRICS_FILE,
    REQUEST_FILE,
    RUN_FILE,
    RUN_FILES,
    STATUSES,
    SUMMARY_FILE,
    SWEEP_FILE,
    EpochRow,
    best,
    finite,
)

# An epoch's numbers that may be absent.
_NUMBERS = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "images_per_second", "seconds", "wall_seconds")
_AGREEMENT = 1e-6  # summary.json and metrics.jsonl may differ by so much before it is worth a word


@dataclass(frozen=True)
class Run:
    """One run folder. `status` is completed, failed, interrupted, unfinished or damaged.

    `reason` says why the run is left out of the statistics and is empty for a run that counts; such a run has
    a schedule, a seed, an identity and a last epoch with a validation accuracy. `finished` is the time of its
    newest file (seconds since 1970). `best_epoch` is 0-based. `digests` are the SHA-256 of what a completed run
    left, by the name of the file; empty where nothing says so.
    """

    folder: Path
    name: str
    scheduler: str
    target: str
    arguments: Mapping[str, Any]
    seed: int | None
    epochs: int | None
    identity: Mapping[str, Any]
    overrides: tuple[str, ...]
    status: str
    reason: str
    log: tuple[EpochRow, ...]
    best_val_accuracy: float | None
    best_epoch: int | None
    test_accuracy: float | None
    test_loss: float | None
    seconds: float | None
    epochs_trained: int | None
    epochs_reused: int | None
    weights: str | None
    classes: int | None
    val_images: int | None
    digests: Mapping[str, Any]
    finished: float

    @property
    def final(self) -> EpochRow | None:
        """The last planned epoch, None if its line is missing."""
        last = self.log[-1] if self.log else None
        return last if last is not None and last.epoch + 1 == self.epochs else None

    @property
    def counts(self) -> bool:
        """Whether the run enters the statistics."""
        return not self.reason


@dataclass(frozen=True)
class Loaded:
    """All runs, in the order of their names, a line for each thing in their files that is not sound, and the sweeps
    among whose jobs some have not completed."""

    runs: tuple[Run, ...]
    problems: tuple[str, ...]
    unfinished: tuple[Path, ...]


def load_runs(folders: Sequence[Path]) -> Loaded:
    """Read every run folder among and below `folders`.

    A run folder holds run.json, summary.json or metrics.jsonl. Links are followed, each folder is read once.
    Raises `UserError` if a folder does not exist or if there is no run in any of them.
    """
    run_folders: list[Path] = []
    problems: list[str] = []
    seen: set[tuple[int, int]] = set()
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; give a run folder or one that holds run folders")
        run_folders += _run_folders(folder.resolve(), seen, problems)
    if not run_folders:
        names = ", ".join(str(folder) for folder in folders) or "nothing"
        raise UserError(f"no runs in {names}: a run folder holds {', '.join(RUN_FILES[:2])} or {RUN_FILES[2]}")
    common = Path(os.path.commonpath([folder.resolve() for folder in folders]))
    runs = [_read_run(path, _name(path, common), problems) for path in sorted(run_folders)]
    sweeps = sorted({run.folder.parent for run in runs})
    unfinished = (sweep for sweep in sweeps if (read_sealed(sweep / SWEEP_FILE) or {}).get("finished") is False)
    return Loaded(tuple(runs), tuple(problems), tuple(unfinished))


def _run_folders(top: Path, seen: set[tuple[int, int]], problems: list[str]) -> list[Path]:
    run_folders = []
    walk = os.walk(top, followlinks=True, onerror=lambda error: problems.append(f"not readable: {error}"))
    for folder, subfolders, files in walk:
        stat = Path(folder).stat()
        if (stat.st_dev, stat.st_ino) in seen:  # reached before, over a link or by an earlier argument
            subfolders.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        if any(name in files for name in RUN_FILES):
            run_folders.append(Path(folder))
        elif any((Path(folder) / name).exists() for name in (REQUEST_FILE, HYDRA)):
            problems.append(f"{Path(folder).name}: a job started here but left no run.json, so it is not listed")
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
    return run_folders


def _name(path: Path, common: Path) -> str:
    inside = path.is_relative_to(common) and path != common
    return printable(path.relative_to(common).as_posix() if inside else path.name, kept="")


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return finite(float(value))
    except OverflowError:  # an integer too large for a float
        return None


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: object) -> str:
    return printable(value, kept="") if isinstance(value, str) else ""


def _count(value: object) -> int | None:
    return len(value) if isinstance(value, list) and len(value) > 1 else None


def _mapping(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}


def _parse(text: bytes) -> dict[str, Any] | None:
    """A JSON object, None for anything else."""
    try:
        value = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _read_object(path: Path, name: str, problems: list[str]) -> dict[str, Any] | None:
    """The JSON object in a file; None if the file is absent, or damaged, which is noted."""
    try:
        value = _parse(read_file(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        problems.append(f"{name}: {path.name} cannot be read ({error.strerror})")
        return None
    if value is None:
        problems.append(f"{name}: {path.name} is damaged (not a JSON object)")
    return value


def _epoch(line: bytes) -> EpochRow | None:
    """One line of metrics.jsonl, None if it is damaged."""
    value = _parse(line)
    if value is None:
        return None
    epoch = _integer(value.get("epoch"))
    rates = {group: _number(rate) for group, rate in _mapping(value.get("lr")).items()}
    lr = {group: rate for group, rate in rates.items() if rate is not None}
    if epoch is None or epoch < 0 or not lr or len(lr) < len(rates):
        return None
    numbers = {name: _number(value.get(name)) for name in _NUMBERS}
    accuracies = (numbers["train_accuracy"], numbers["val_accuracy"])
    if any(accuracy is not None and not 0 <= accuracy <= 1 for accuracy in accuracies):
        return None
    return EpochRow(epoch=epoch, lr=lr, reused=value.get("reused") is True, **numbers)


def _read_log(path: Path, name: str, problems: list[str]) -> tuple[EpochRow, ...]:
    """The sound lines of metrics.jsonl by epoch; of two lines for one epoch the later counts."""
    try:
        lines = read_file(path).split(b"\n")
    except FileNotFoundError:
        return ()
    except OSError as error:
        problems.append(f"{name}: metrics.jsonl cannot be read ({error.strerror})")
        return ()
    log: dict[int, EpochRow] = {}
    damaged, repeated = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        epoch = _epoch(line)
        if epoch is None:
            damaged.append(str(number))
            continue
        if epoch.epoch in log:
            repeated.append(str(epoch.epoch))
        log[epoch.epoch] = epoch
    if damaged:
        problems.append(f"{name}: metrics.jsonl is damaged in line {_some(damaged)}; the other lines are used")
    if repeated:
        problems.append(f"{name}: metrics.jsonl holds epoch {_some(repeated)} again; the later line is used")
    return tuple(log[epoch] for epoch in sorted(log))


def _some(items: list[str]) -> str:
    rest = f" and {len(items) - 5} more" if len(items) > 5 else ""
    return ", ".join(items[:5]) + rest


def _overrides(folder: Path) -> tuple[str, ...]:
    """The overrides that were noted for this job; none where the file is absent or damaged."""
    import yaml

    if (folder / REQUEST_FILE).exists():
        value = (read_sealed(folder / REQUEST_FILE) or {}).get("overrides")
    else:
        try:
            value = yaml.safe_load(read_file(folder / EARLIER_OVERRIDES))
        except (OSError, yaml.YAMLError, UnicodeDecodeError):
            value = None
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _read_summary(folder: Path, name: str, problems: list[str]) -> dict[str, Any] | None:
    """summary.json, None if it is absent or damaged; those of earlier versions have no checksum."""
    value = _read_object(folder / SUMMARY_FILE, name, problems)
    sealed = unsealed(value, since="files") if value else None
    if value and sealed is None:
        problems.append(f"{name}: {SUMMARY_FILE} is damaged (it does not match its checksum)")
    return sealed


def altered(run: Run, names: Sequence[str] = (REQUEST_FILE, RUN_FILE, METRICS_FILE)) -> list[str] | None:
    """Those of these files, which a report reads, that are not what the completed run left.

    None where nothing says what it left: it did not complete, its summary is damaged, or it is of an earlier version.
    """
    return changed(run.folder, {name: str(run.digests.get(name)) for name in names}) if run.digests else None


def _read_run(folder: Path, name: str, problems: list[str]) -> Run:
    started = _read_object(folder / RUN_FILE, name, problems)
    summary = _read_summary(folder, name, problems)
    log = _read_log(folder / METRICS_FILE, name, problems)
    facts, result = started or {}, summary or {}
    epochs = _integer(facts.get("epochs", result.get("epochs")))
    log = tuple(epoch for epoch in log if epochs is None or epoch.epoch < epochs)
    accuracy, best_epoch = _best(log, epochs, result)
    run = Run(
        folder=folder.resolve(),
        name=name,
        scheduler=_text(facts.get("scheduler") or result.get("scheduler")),
        target=_text(facts.get("scheduler_target")),
        arguments=_mapping(facts.get("scheduler_arguments")),
        seed=_integer(facts.get("seed", result.get("seed"))),
        epochs=epochs,
        identity=_mapping(facts.get("identity")),
        overrides=_overrides(folder),
        status=_status(folder, summary),
        reason="",
        log=log,
        best_val_accuracy=accuracy,
        best_epoch=best_epoch,
        test_accuracy=_number(result.get("test_accuracy")),
        test_loss=_number(result.get("test_loss")),
        seconds=_number(result.get("seconds")),
        epochs_trained=_integer(result.get("epochs_trained")),
        epochs_reused=_integer(result.get("epochs_reused")),
        weights=_text(result.get("weights_sha256")) or None,
        classes=_count(facts.get("classes")),
        val_images=_integer(_mapping(facts.get("images")).get("val")),
        digests=_mapping(result.get("files")),
        finished=_newest(folder),
    )
    run = replace(run, reason=_reason(run, facts, result))
    if run.counts and (files := altered(run)):
        run = replace(run, reason=f"{' and '.join(files)} changed after the run ended (resume={name} restores it)")
    problems.extend(_disagreements(run, _number(result.get("final_val_accuracy"))))
    return run


def _newest(folder: Path) -> float:
    files = (folder / name for name in RUN_FILES)
    return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)


def _status(folder: Path, summary: Mapping[str, Any] | None) -> str:
    if summary is None:
        return "damaged" if (folder / SUMMARY_FILE).exists() else "unfinished"
    return str(summary.get("status")) if summary.get("status") in STATUSES else "damaged"


def _best(log: tuple[EpochRow, ...], epochs: int | None, summary: Mapping[str, Any]) -> tuple[float | None, int | None]:
    """The highest validation accuracy and its first epoch; summary.json's word where lines of the log are lost."""
    known = (_number(summary.get("best_val_accuracy")), _integer(summary.get("best_epoch")))
    if len(log) != epochs and None not in known:
        return known
    top = best(log)
    return (top.val_accuracy, top.epoch) if top else (None, None)


def _reason(run: Run, facts: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """Why a run is left out of the statistics, empty if it is not."""
    if run.status == "failed":
        return _text(" ".join(str(summary.get("error") or "").split())) or "failed without an error text"
    if run.status in ("interrupted", "unfinished"):
        planned = "" if run.epochs is None else f"of {run.epochs} "
        return f"{run.status} after {len(run.log)} {planned}epochs"
    if run.status == "damaged":
        return "summary.json is damaged"
    if not facts:
        return "no sound run.json, so its settings are unknown"
    if run.seed is None or run.epochs is None or not _text(facts.get("scheduler")) or not run.identity:
        return "run.json lacks the schedule, seed, epochs or identity"
    if run.final is None or run.final.val_accuracy is None:
        return "metrics.jsonl lacks the last epoch's validation accuracy"
    return ""


def _disagreements(run: Run, final_in_summary: float | None) -> list[str]:
    """What a completed run's files say that a reader must know about its numbers."""
    if not run.counts or run.final is None or run.final.val_accuracy is None:
        return []
    lines = []
    if final_in_summary is not None and abs(final_in_summary - run.final.val_accuracy) > _AGREEMENT:
        lines.append(
            f"{run.name}: the final validation accuracy is {final_in_summary:.6f} in summary.json but "
            f"{run.final.val_accuracy:.6f} in metrics.jsonl; the latter is used"
        )
    if run.final.val_loss is None:
        consequence = "it counts as a run that diverged"
        lines.append(f"{run.name}: the last epoch has no finite validation loss; {consequence}")
    return lines
