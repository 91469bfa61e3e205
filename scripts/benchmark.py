"""Time a training epoch beside its peers: python scripts/benchmark.py data=fashion_mnist [--rounds 3]."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness import benchmark, cli


def main() -> None:
    """Compare all contestants, or, as their own processes are started, measure one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*", help="as for train.py, such as model=resnet20 batch_size=256")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contestant (default: 3)")
    parser.add_argument("--output", type=Path, default=Path("benchmark.json"), help="the results as JSON")
    parser.add_argument("--contestant", choices=benchmark.CONTESTANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    config, _ = cli.compose_config(arguments.overrides)
    if arguments.contestant:
        print(json.dumps(dataclasses.asdict(benchmark.measure(config, arguments.contestant))))
    else:
        benchmark.compare(config, arguments.overrides, arguments.rounds, arguments.output)


if __name__ == "__main__":
    cli.main(main)
