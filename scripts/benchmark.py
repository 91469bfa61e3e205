"""Measure speed: python scripts/benchmark.py COMMAND [OVERRIDES] [OPTIONS]; COMMAND --help tells more.

train     a training epoch beside plain DataLoader loops, PyTorch Lightning and timm
features  what determinism, logging, checkpoints, progress bar, compile and others cost
growth    speed over batch size, image size and network size
startup   from the command to the first step and the first TensorBoard point; imports, evaluation, memory
stages    what sharing epochs saves in a sweep
rates     the machine's matrix and copy rates
accuracy  wall seconds from the start of the process to an accuracy, and whether it was reached
probe     many runs on one GPU: at once in one process, in several, or one after the other
gpu       all that needs a GPU, one after the other; start it by scripts/gpu_bench.sh
verdicts  how often a report claims what is not so, in simulated sweeps
"""

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness.errors import UserError, run_script

COMMANDS = ("train", "features", "growth", "startup", "stages", "rates", "accuracy", "probe", "gpu", "verdicts")


def main() -> None:
    """Pass on to the command's module."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        print(__doc__)
    elif command in COMMANDS:
        importlib.import_module(f"harness.benchmarks.{command}").main(arguments)
    else:
        raise UserError(f"{command}: must be one of {', '.join(COMMANDS)}")


if __name__ == "__main__":
    run_script(main)
