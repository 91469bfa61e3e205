"""Run folders as the trainer leaves them, written by tests, and short ways to read them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from harness.compare.comparison import Comparison, compare
from harness.compare.load import load_runs

TARGETS = {"constant": "ConstantLR", "step": "StepLR", "multistep": "MultiStepLR"}


def rate(scheduler: str, arguments: dict[str, Any], epoch: int) -> float:
    """Learning rate of an epoch; `smooth` falls by 0.4 powers of gamma an epoch, a name not listed is constant."""
    drops = 0.0
    if scheduler == "step":
        drops = epoch // arguments["step_size"]
    elif scheduler == "multistep":
        drops = sum(epoch >= milestone for milestone in arguments["milestones"])
    elif scheduler == "smooth":
        drops = 0.4 * epoch
    return 0.01 * float(arguments.get("gamma", 0.1)) ** drops


def write_run(
    folder: Path,
    scheduler: str = "constant",
    seed: int = 0,
    epochs: int = 10,
    arguments: dict[str, Any] | None = None,
    identity: dict[str, Any] | None = None,
    overrides: list[str] | None = None,
    weights: str | None = None,
    val_accuracy: list[float] | None = None,
    val_loss: list[float] | None = None,
    finished: float = 1e9,
) -> Path:
    """A completed run as the trainer leaves it, with noise that depends on folder and seed."""
    arguments = arguments or {}
    noise = np.random.default_rng([seed, *os.fsencode(folder.name)])
    accuracy = val_accuracy or np.sort(noise.uniform(0.5, 0.95, epochs)).round(4).tolist()
    loss = val_loss or np.sort(noise.uniform(0.1, 1.5, epochs))[::-1].tolist()
    lines = _metrics(scheduler, arguments, accuracy, loss, noise)
    started = {
        "scheduler": scheduler,
        "scheduler_target": f"torch.optim.lr_scheduler.{TARGETS.get(scheduler, 'LambdaLR')}",
        "scheduler_arguments": arguments,
        "seed": seed,
        "epochs": epochs,
        "groups": ["default"],
        "plan_changes": [],
        "identity": {"model.name": "cnn", "optimizer.lr": 0.01, "code": "abc", "seed": seed, **(identity or {})},
        "config": {},
    }
    summary = {
        "status": "completed",
        "scheduler": scheduler,
        "seed": seed,
        "epochs": epochs,
        "epochs_trained": epochs - 2,
        "epochs_reused": 2,
        "final_val_accuracy": accuracy[-1],
        "best_val_accuracy": max(accuracy),
        "best_epoch": accuracy.index(max(accuracy)),
        "test_loss": noise.uniform(),
        "test_accuracy": noise.uniform(),
        "weights_sha256": weights or ascii(folder.name),
        "seconds": 12.5,
    }
    files = {"run.json": [started], "metrics.jsonl": lines, "summary.json": [summary]}
    _write(folder, files, overrides, finished)
    return folder


def _write(folder: Path, files: dict[str, Any], overrides: list[str] | None, finished: float) -> None:
    folder.mkdir(parents=True)
    for name, rows in files.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        os.utime(folder / name, (finished, finished))
    if overrides is not None:
        (folder / ".hydra").mkdir()
        (folder / ".hydra" / "overrides.yaml").write_text(json.dumps(overrides))


def _metrics(
    scheduler: str, arguments: dict[str, Any], accuracy: list[float], loss: list[float], noise: np.random.Generator
) -> list[dict[str, Any]]:
    return [
        {
            "epoch": epoch,
            "lr": {"default": rate(scheduler, arguments, epoch)},
            "train_loss": noise.uniform(),
            "train_accuracy": noise.uniform(),
            "val_loss": loss[epoch],
            "val_accuracy": accuracy[epoch],
            "images_per_second": noise.uniform(900, 1100),
            "seconds": noise.uniform(1, 2),
            "reused": epoch < 2,
            **({"wall_seconds": noise.uniform(2, 3)} if scheduler != "step" else {}),  # as of an older version
        }
        for epoch in range(len(accuracy))
    ]


def write_sweep(top: Path, seeds: int = 5) -> Path:
    for seed in range(seeds):
        write_run(top / f"constant_{seed}", "constant", seed)
        write_run(top / f"step_{seed}", "step", seed, arguments={"step_size": 4, "gamma": 0.1})
        write_run(top / f"multi_{seed}", "multistep", seed, arguments={"milestones": [3, 8], "gamma": 0.1})
    return top


def write_pairs(top: Path, constant: list[float], step: list[float], losses: bool = False) -> Path:
    """One-epoch runs of two schedules with the given final accuracies (or losses) for seeds 0, 1, ..."""
    for scheduler, values in (("constant", constant), ("step", step)):
        for seed, value in enumerate(values):
            curves = {"val_loss": [value]} if losses else {"val_accuracy": [value], "val_loss": [1.0]}
            arguments = {"step_size": 4} if scheduler == "step" else {}
            write_run(top / f"{scheduler}{seed}", scheduler, seed, 1, arguments, **curves)
    return top


def compared(*folders: Path, **options: Any) -> Comparison:
    return compare(load_runs(folders), **options)


def raw(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
