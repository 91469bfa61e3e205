"""Compare finished runs: python scripts/compare.py FOLDER... [--baseline NAME] [--output DIR]."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness.errors import printable, run_script
from harness.report.aggregates import write_aggregates
from harness.report.write import write_report


def main() -> None:
    """Write the report, print its table and sentences."""
    parser = argparse.ArgumentParser(
        description="Compare the runs in and below the given folders: which learning-rate schedule won, by how "
        "much, and whether that could be chance."
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="run folder or sweep folder")
    parser.add_argument("--baseline", metavar="NAME", help="schedule or label to compare with (default: constant)")
    parser.add_argument(
        "--target-accuracy",
        type=float,
        metavar="X",
        help="validation accuracy, a fraction, for epochs and seconds to target (default: from the results)",
    )
    parser.add_argument(
        "--margin",
        type=float,
        metavar="POINTS",
        help="percentage points of accuracy: two schedules may also be found not to differ by so much",
    )
    parser.add_argument(
        "--now",
        action="store_true",
        help="say what can be claimed although a sweep has not ended; later claims then need more evidence",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="report folder (default: FOLDER/report, or ./report for several)",
    )
    options = parser.parse_args()
    single = options.folders[0] / "report" if len(options.folders) == 1 else Path("report")
    output = options.output or single
    jobs = 0 if options.now else None
    report = write_report(options.folders, output, options.baseline, options.target_accuracy, options.margin, jobs)
    curves = output.parent / "aggregated"
    write_aggregates(report.comparison.groups, curves)
    print(report.text)
    print(printable(f"\nReport: {', '.join(str(path) for path in report.files)}"))
    if report.comparison.groups:
        print(printable(f"Mean curves for TensorBoard: {curves}"))


if __name__ == "__main__":
    run_script(main)
