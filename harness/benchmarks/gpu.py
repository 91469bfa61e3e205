"""All measurements that need a GPU, one after the other within a given time; scripts/gpu_bench.sh starts it."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from harness.app.arguments import quoted
from harness.benchmarks import BENCHMARK, ROOT
from harness.errors import UserError
from harness.files import write_json

# Seconds that a step may take, by what it was measured or reckoned to need on one GPU.
LIMITS = {
    "environment": 40, "rates": 40, "resnet18": 180, "small_cnn": 80, "small_cnn_graphs": 100, "tests": 90,
    "cifar10_94": 90, "cifar10_96": 150, "features": 150,
}  # fmt: skip


def main(arguments: Sequence[str]) -> None:
    """Take the steps and exit with 1 when one failed, or, as its own process is started, tell of the machine."""
    options = _options(arguments)
    if options.machine:
        _tell_of_the_machine(options)
        return
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        results = _take_steps(options, Path(folder))
    if any(result.startswith("FAILED") for result in results):
        sys.exit(1)


def _options(arguments: Sequence[str]) -> Namespace:
    made = argparse.ArgumentParser(prog="benchmark.py gpu", description=__doc__, allow_abbrev=False)
    made.add_argument("results", nargs="?", type=Path, default=os.environ.get("OUT") or "gpu_bench")
    made.add_argument("--dry", action="store_true", help="tiny sizes on the CPU")
    made.add_argument("--steps", default=",".join(LIMITS), help="with commas between (default: all)")
    made.add_argument("--began", type=float, default=time.time(), help="when the time began, in seconds since 1970")
    made.add_argument("--machine", type=Path, help="write environment.txt and this JSON file alone")
    options, unknown = made.parse_known_args(list(arguments))
    if unknown:
        known = "--dry, --steps NAMES, --fetch-wheels FOLDER or a folder for the results"
        raise UserError(f"{unknown[0]}: must be {known}")
    options.steps = options.steps.split(",")
    if wrong := [step for step in options.steps if step not in LIMITS]:
        raise UserError(f"--steps {wrong[0]}: must be of {' '.join(LIMITS)}")
    seconds = os.environ.get("SECONDS_IN_ALL") or "530"
    if not seconds.isdecimal():
        raise UserError(f"SECONDS_IN_ALL={seconds}: must be a whole number of seconds")
    options.end = options.began + int(seconds)
    options.results = options.results.resolve()
    try:
        options.results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{options.results}: must be a folder for the results ({error.strerror})") from None
    return options


def _tell_of_the_machine(options: Namespace) -> None:
    """In a process of its own, since asking for the GPU takes some of its memory."""
    import torch

    from harness.benchmarks.study import machine

    found = machine()
    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        found |= {"device": device.name, "device_bytes": device.total_memory}
    write_json(options.machine, found)
    program = shutil.which("nvidia-smi")
    told = subprocess.run([program], capture_output=True, text=True, check=False).stdout if program else "no nvidia-smi"
    text = f"{datetime.datetime.now(datetime.UTC):%c} UTC\n{told.rstrip()}\n"
    (options.results / "environment.txt").write_text(text)
    print(text + json.dumps(found, indent=2))


def _take_steps(options: Namespace, work: Path) -> list[str]:
    """The result of each step. Files are brought up to date after each, so that a run that is cut off leaves them."""
    commands, told = _commands(options.dry, _cifar(work), options.results, work), []
    summary = f"{'step':<18} {'seconds':<12} result\n"
    with (options.results / "log.txt").open("w", encoding="utf-8") as log:
        for step in options.steps:
            _print(f"\n== {step}\n", log)
            began = time.time()
            left = options.end - began
            told.append(_result(step, commands[step], left if options.dry else min(left, LIMITS[step]), log))
            summary += f"{step:<18} {time.time() - began:<12.0f} {told[-1]}\n"
            (options.results / "summary.txt").write_text(summary)
            files = {path.parent.name: path for path in work.glob("*/summary.json")}
            files |= {path.stem: path for path in work.glob("*.json")}
            found = {name: json.loads(files[name].read_text()) for name in sorted(files)}
            write_json(options.results / "results.json", found)
            for chart in work.glob("*.png"):
                shutil.copy(chart, options.results)
    count = sum(path.is_file() for path in options.results.rglob("*"))
    print(f"\n{summary}written: {options.results} ({count} files)")
    return told


def _cifar(work: Path) -> Path | None:
    """The folder of images that DATA names or holds packed, if it is set."""
    given = os.environ.get("DATA")
    if not given:
        return None
    root = Path(given)
    if root.is_file():
        root = work / "data"
        root.mkdir()
        if subprocess.run(["tar", "-xJf", given, "-C", root], check=False).returncode != 0:
            raise UserError(f"DATA={given}: cannot be unpacked; must be a tar.xz")
    if not root.is_dir():
        raise UserError(f"DATA={given}: no such folder or file")
    for pattern in ("train", "*/train", "*/*/train"):
        for folder in root.glob(pattern):
            return folder.resolve().parent
    raise UserError(f"DATA={given}: must be a folder, or a tar.xz of one, with train/<class>/ and test/<class>/")


def _commands(dry: bool, cifar: Path | None, results: Path, work: Path) -> dict[str, list[str] | str]:
    """Each step's command line, which leaves its results in `work`, or why it is skipped."""
    eager, fast = ("compile=false", "cuda_graphs=false"), ("compile=true", "cuda_graphs=true")
    # Kernels as fast as can be had, for every contestant.
    common: tuple[str, ...] = ("deterministic=false", "device=cuda", "precision=bf16")
    big: tuple[str, ...] = ("model=resnet18", "batch_size=512")
    small: tuple[str, ...] = ("model=small_cnn", "batch_size=512")
    files = ("data=image_folder", f"data.root={quoted(cifar)}") if cifar else ()
    images: tuple[str, ...] = (*(files or ("data=synthetic", "data.images=50000")), "data.image_size=32")
    rounds, few, epochs, features = "2", 20000, 12, "determinism,TensorBoard,a checkpoint,stage,progress"
    if dry:
        common, fast = ("deterministic=false", "device=cpu"), eager
        big, small = ("model=resnet18", "batch_size=8"), ("model=small_cnn", "model.channels=[8,16]", "batch_size=32")
        images = (*(files or ("data=synthetic", "data.images=72")), "data.image_size=8", "data.train_size=64")
        rounds, few, epochs, features = "1", 100, 3, "determinism"
    work_of_all = (*common, *images)
    some = ("--rounds", "1", "--epochs-timed", "3", "--only", "this harness,bare,DataLoader loop")

    def bench(step: str, command: str, *arguments: str) -> list[str]:
        return [sys.executable, str(BENCHMARK), command, *arguments, "--output", str(work / f"{step}.json")]

    def recipe(step: str) -> list[str] | str:
        if not (ROOT / f"conf/experiment/{step}.yaml").exists():
            return f"skipped: there is no conf/experiment/{step}.yaml"
        if dry or not files:
            return "skipped: needs DATA and a GPU"
        ways = (f"hydra.run.dir={work / step}", f"stages.dir={work / 'stages'}")
        return [sys.executable, "train.py", f"experiment={step}", *files, "data.image_size=32", *ways]

    return {
        "environment": [sys.executable, str(BENCHMARK), "gpu", str(results), "--machine", f"{work}/environment.json"],
        "rates": bench("rates", "rates", *common, "--rounds", rounds),
        "resnet18": bench("resnet18", "train", *work_of_all, *big, *fast, "--rounds", rounds, "--seconds", "90"),
        "small_cnn": bench("small_cnn", "train", *work_of_all, *small, *eager, *some),
        "small_cnn_graphs": bench("small_cnn_graphs", "train", *work_of_all, *small, *fast, *some),
        "tests": [sys.executable, "-m", "pytest", "-k", "cuda", "-p", "no:cacheprovider"],
        "cifar10_94": recipe("cifar10_94"),
        "cifar10_96": recipe("cifar10_96"),
        # Each run reads its data anew, so these are few and made up.
        "features": bench("features", "features", "data=synthetic", "data.image_size=32", f"data.images={few}", *small,
                          f"epochs={epochs}", common[1], "--rounds", "1", "--only", features),
    }  # fmt: skip


def _result(step: str, command: Sequence[str] | str, seconds: float, log: TextIO) -> str:
    """What became of the step. Whatever it started is stopped with it when its time is over."""
    if isinstance(command, str):
        return command
    if seconds < 5:
        return "FAILED: out of time"
    line = ["timeout", "--kill-after=5", f"{seconds:.0f}", *command]
    # So that what it said is there when it is stopped.
    unbuffered, pipe = os.environ | {"PYTHONUNBUFFERED": "1"}, subprocess.PIPE
    with subprocess.Popen(line, cwd=ROOT, env=unbuffered, stdout=pipe, stderr=subprocess.STDOUT, text=True) as process:
        try:
            for said in process.stdout or ():
                _print(said, log)
        except KeyboardInterrupt:
            process.terminate()
            raise
    match process.returncode:
        case 0:
            return "ok"
        case 5 if step == "tests":
            return "skipped: no test has cuda in its name"
        case 124 | 137 | -9:
            return "FAILED: out of time"
    return f"FAILED: exit status {process.returncode}"


def _print(text: str, log: TextIO) -> None:
    print(text, end="", flush=True)
    log.write(text)
    log.flush()
