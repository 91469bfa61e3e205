"""All measurements that need a GPU, as parts that can be taken one by one; scripts/gpu_bench.sh starts it.

A part is one command that leaves RESULTS/<part>.json as it goes, and a chart where there is something to draw. A part
that is finished is not taken again; one that was stopped goes on with what it had. summary.md holds all tables.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from harness.app.arguments import quoted
from harness.app.compose import compose_config
from harness.benchmarks import BENCHMARK, ROOT
from harness.benchmarks.contestants import CONTESTANTS
from harness.benchmarks.study import machine
from harness.benchmarks.work import decode
from harness.errors import UserError
from harness.files import read_object, write_json, write_text

# Seconds that a part may take, without installing wheels and decoding images, which take up to SET_UP; reckoned for one
# H200, not measured. A part that takes longer is stopped and can be taken up again.
SET_UP = 60
LIMITS = {
    "rates": 60, "probe": 400, "resnet18": 360, "accuracy_short": 150, "accuracy_long": 430, "small_cnn": 300,
    "features": 240, "tests": 400,
}  # fmt: skip
REPORT = "report"
OK, MISSED, SKIPPED = "ok", "missed", "skipped"  # how a status begins
_LINES = 25  # of what a command without a table said, kept in its file
_WITH_IMAGES = ("resnet18", "small_cnn", "accuracy_short", "accuracy_long")


def main(arguments: Sequence[str]) -> None:
    """Take the parts that are not finished, and exit with 1 where one of those asked for is not ok."""
    options = _options(arguments)
    with options.file("log.txt").open("a", encoding="utf-8") as log:
        for part in options.parts:
            if not _status(options, part).startswith((OK, MISSED)):
                _take(part, options, log)
                _summarise(options)
    print(f"\n{_summarise(options)}\nwritten: {options.results}")
    if not all(_status(options, part).startswith((OK, SKIPPED)) for part in options.parts):
        sys.exit(1)


def _status(options: Namespace, part: str) -> str:
    """What became of the part, by its file."""
    found = read_object(options.file(f"{part}.json"))
    return str(found.get("status", "stopped in the middle" if found else "not begun"))


def _options(arguments: Sequence[str]) -> Namespace:
    made = argparse.ArgumentParser(prog="gpu_bench.sh", description=__doc__, allow_abbrev=False)
    made.add_argument("parts", nargs="*", metavar="PART", help=f"of {' '.join(LIMITS)}, or {REPORT} (default: all)")
    made.add_argument("--results", type=Path, default=ROOT / "gpu_bench")
    made.add_argument("--dry", action="store_true", help="tiny sizes on the CPU")
    made.add_argument("--began", type=float, default=time.time(), help="when the time began, in seconds since 1970")
    options, unknown = made.parse_known_intermixed_args(list(arguments))
    if unknown:
        raise UserError(f"{unknown[0]}: must be --dry, --results FOLDER, --fetch-wheels FOLDER or a PART")
    if wrong := [part for part in options.parts if part not in (*LIMITS, REPORT)]:
        raise UserError(f"{wrong[0]}: must be of {' '.join(LIMITS)} {REPORT}")
    options.parts = [part for part in options.parts or LIMITS if part != REPORT]
    seconds = os.environ.get("SECONDS_IN_ALL") or "530"
    if not seconds.isdecimal():
        raise UserError(f"SECONDS_IN_ALL={seconds}: must be a whole number of seconds")
    options.end = options.began + int(seconds)
    if (data := os.environ.get("DATA")) and not Path(data).exists():
        raise UserError(f"DATA={data}: no such folder or file")
    options.results = options.results.resolve()
    # So that what was measured on the CPU to try it out is never taken for a result.
    options.file = lambda name: options.results / f"{'dry_' if options.dry else ''}{name}"
    try:
        options.results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{options.results}: must be a folder for the results ({error.strerror})") from None
    return options


def _take(part: str, options: Namespace, log: TextIO) -> None:
    """Run the part's command, and leave in the part's file how that went beside what the command left there."""
    _print(f"\n== {part}\n", log)
    file = options.file(f"{part}.json")
    command = _command(part, options.dry, _images(log) if part in _WITH_IMAGES else None, file)
    left = options.end - time.time()
    told: dict[str, Any] = {"part": part, "gpu": _gpu()}
    if isinstance(command, str):
        status = f"{SKIPPED}: {command}"
    elif left < LIMITS[part]:
        status = f"NOT BEGUN: may take {LIMITS[part]} s, and {max(0, left):.0f} s are left"
    else:
        told["command"] = shlex.join(["python", *command[1:]]).replace(f"{ROOT}/", "")
        earlier = {name: value for name, value in read_object(file).items() if name not in ("status", "table")}
        write_json(file, {**machine(), **earlier, **told})
        began = time.time()
        status, said = _result(command, LIMITS[part], log)
        left_there = read_object(file)
        if status != OK and left_there.get("missed"):
            status = "; ".join(left_there["missed"])
        told |= {"seconds": round(time.time() - began, 1), "table": left_there.get("table") or said}
    write_json(file, {**machine(), **read_object(file), **told, "status": status})
    _print(f"{part}: {status}\n", log)


def _images(log: TextIO) -> Path | None:
    """All images of DATA, decoded once for all parts and calls; None where DATA is not set."""
    given = os.environ.get("DATA")
    if not given:
        return None
    root = Path(given).absolute()
    looked_at = [root, *sorted(path for path in root.glob("*/*/") if path.is_dir())]
    stamps = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in looked_at]
    file = ROOT / "gpu_bench" / f"images-{hashlib.sha256(repr(stamps).encode()).hexdigest()[:12]}.pt"
    if not file.exists():
        began = time.time()
        file.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="images-") as unpacked:
            if root.is_file():
                packed, root = root, Path(unpacked) / root.name
                root.mkdir()
                if subprocess.run(["tar", "-xJf", packed, "-C", root], check=False).returncode != 0:
                    raise UserError(f"DATA={given}: cannot be unpacked; must be a tar.xz")
            config, _ = compose_config(["data=image_folder", f"data.root={quoted(root)}", "data.image_size=32"])
            decode(config.data, file)
        _print(f"decoded {given} in {time.time() - began:.0f} s\n", log)
    return file


def _gpu() -> str | None:
    """Its name and driver; None without one. torch is not asked, since its answer takes some of the GPU's memory."""
    if (program := shutil.which("nvidia-smi")) is None:
        return None
    asked = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() or None


def _command(part: str, dry: bool, images: Path | None, file: Path) -> list[str] | str:
    """The part's command line, which leaves its results in `file`, or why it is skipped."""
    # Kernels as fast as can be had, for every contestant.
    common = ["deterministic=false", *(["device=cpu", "threads=1"] if dry else ["device=cuda", "precision=bf16"])]
    # By name alone: they are read from --images.
    root = Path(os.environ.get("DATA", "")).name
    data = ["data=image_folder", f"data.root={quoted(Path(root))}"] if images else ["data=synthetic"]
    data += [] if images else [f"data.images={100 if dry else 50000}"]
    # Decoded images have the size that they have.
    data += ["data.image_size=8"] if dry and not images else ["data.image_size=32"]
    small = ["data.train_size=64", "batch_size=32"] if dry else ["batch_size=512"]
    decoded = ["--images", str(images)] if images else []
    resumed = ["--resume", "--output", str(file)]

    def bench(command: str, *arguments: str) -> list[str]:
        return [sys.executable, str(BENCHMARK), command, *arguments]

    def peers(model: str, seconds: int) -> list[str]:
        """All but those whose loaders have no workers, in the same treatment."""
        names = list(CONTESTANTS)[:1] if dry else [name for name in CONTESTANTS if "(0 workers)" not in name]
        treatment = ["--alike", "--only", ",".join(names), "--epochs-timed", "1" if dry else "3"]
        rounds = ["--rounds", "1" if dry else "2", "--seconds", str(seconds)]
        compiled = f"compile={str(not dry).lower()}"
        return bench(
            "train", *common, *data, *small, f"model={model}", compiled, *treatment, *rounds, *decoded, *resumed
        )

    def recipe(name: str, aim: float) -> list[str] | str:
        if images is None and not dry:
            return "needs DATA, the images"
        size = ["epochs=2", "model=small_cnn", "data.cutout=2", *small] if dry else []
        aimed = ["--aim", str(0.01 if dry else aim)]
        return bench("accuracy", f"experiment={name}", *common, *data, *size, *aimed, *decoded, *resumed)

    match part:
        case "rates":
            return bench("rates", *common, "--rounds", "1" if dry else "3", "--output", str(file))
        case "probe":
            sizes = ["--counts", "1,2", "--batches", "8", "--steps", "2", "data.image_size=8"] if dry else []
            # Fifteen processes with a thread for each core would be in each other's way.
            return bench("probe", *common[1:], *([] if dry else ["threads=1"]), *sizes, *resumed)
        case "resnet18" | "small_cnn":
            return peers(part, seconds=120)
        # Round numbers for the original images of CIFAR-10; whether other images allow them is not known.
        case "accuracy_short":
            return recipe("cifar10_short", 0.94)
        case "accuracy_long":
            return recipe("cifar10_long", 0.96)
        case "features":
            size = ["data.images=100", "data.image_size=8", "epochs=3"] if dry else ["data.images=20000", "epochs=12"]
            costs = "determinism" if dry else "determinism,TensorBoard,a checkpoint,stage,progress,compile,cuda_graphs"
            settings = ["data=synthetic", *common[1:], *size, "batch_size=32" if dry else "batch_size=512"]
            return bench("features", *settings, "--rounds", "1", "--only", costs, *resumed)
    parallel = ["-n", "4"] if importlib.util.find_spec("xdist") and not dry else []
    return [sys.executable, "-m", "pytest", "-v", "-k", "cuda", "-p", "no:cacheprovider", *parallel]


def _result(command: Sequence[str], seconds: float, log: TextIO) -> tuple[str, list[str]]:
    """What became of a command, and the last lines of what it said. Whatever it started is stopped with it when its
    time is over."""
    line = ["timeout", "--kill-after=5", f"{seconds:.0f}", *command]
    # So that what it said is there when it is stopped.
    unbuffered, pipe = os.environ | {"PYTHONUNBUFFERED": "1"}, subprocess.PIPE
    last: deque[str] = deque(maxlen=_LINES)
    with subprocess.Popen(line, cwd=ROOT, env=unbuffered, stdout=pipe, stderr=subprocess.STDOUT, text=True) as process:
        try:
            for said in process.stdout or ():
                _print(said, log)
                last.append(said.rstrip())
        except KeyboardInterrupt:
            process.terminate()
            raise
    match process.returncode:
        case 0:
            status = OK
        case 5 if "pytest" in command:
            status = f"{SKIPPED}: no test has cuda in its name"
        case 124 | 137 | -9:
            status = f"STOPPED: {seconds:.0f} s were not enough; the same command goes on"
        case number:
            status = f"FAILED: exit status {number}"
    return status, list(last)


def _summarise(options: Namespace) -> str:
    """What became of each part, as text; with all their tables it is also left in summary.md."""
    found = {part: read_object(options.file(f"{part}.json")) for part in LIMITS}
    lines = [f"{'part':<15} {'seconds':<8} result"]
    lines += [f"{part:<15} {found[part].get('seconds', ''):<8} {_status(options, part)}" for part in LIMITS]
    text = "# GPU measurements\n\n```\n" + "\n".join(lines) + "\n```\n"
    for part, told in found.items():
        if table := told.get("table"):
            where = f"{told.get('gpu') or told.get('device')}, torch {told['versions']['torch']}, {told['date']}"
            text += f"\n## {part}\n\n{where}\n\n    {told['command']}\n\n```\n" + "\n".join(table) + "\n```\n"
    write_text(options.file("summary.md"), text)
    return "\n".join(lines)


def _print(text: str, log: TextIO) -> None:
    print(text, end="", flush=True)
    log.write(text)
    log.flush()
