"""Check that completed runs are what they were when they ended: python scripts/verify.py FOLDER..."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness.compare.load import altered, load_runs
from harness.errors import run_script
from harness.record import METRICS_FILE, MODEL_FILE, REQUEST_FILE, RUN_FILE


def main() -> int:
    """Print a line a run; the exit status is 1 where a file is not what the run left."""
    parser = argparse.ArgumentParser(description="Check the files of runs by their digests.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="run folder or sweep folder")
    damaged = 0
    for run in load_runs(parser.parse_args().folders).runs:
        files = altered(run, (REQUEST_FILE, RUN_FILE, METRICS_FILE, MODEL_FILE))
        if files or run.status == "damaged":
            damaged += 1
            print(f"damaged    {run.name}: {', '.join(files or ['summary.json'])}; resume={run.folder} restores it")
        elif files is None:
            print(f"unchecked  {run.name}: did not complete, or is from before runs had digests")
        else:
            print(f"sound      {run.name}")
    return 1 if damaged else 0


if __name__ == "__main__":
    run_script(main)
