"""`python -m tests.campaigns NAME [--cases N] [--case K] [--seed S] [--jobs J]`, from the repository's root."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.campaigns.campaign import NAMES, Outcome, find, run


def main() -> int:
    """Run one campaign, and print what was tried, what survived, and each failure with the command that repeats it."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--cases", type=int, help="how many cases (default: the whole campaign)")
    parser.add_argument("--case", type=int, help="this case alone")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other cases (default: 0)")
    parser.add_argument("--jobs", type=int, default=2, help="cases at once (default: 2)")
    given = parser.parse_args()
    campaign = find(given.name)
    numbers = range(given.cases or campaign.cases) if given.case is None else [given.case]
    print(f"{given.name}: {campaign.what}", flush=True)
    outcome, told = Outcome(), 0
    for outcome in run(given.name, numbers, given.seed, given.jobs):
        for number in list(outcome.failures)[told:]:
            print(f"case {number} FAILED: {outcome.failures[number]}", flush=True)
            print(f"  again: python -m tests.campaigns {given.name} --seed {given.seed} --case {number}", flush=True)
        told = len(outcome.failures)
        if sys.stdout.isatty():
            print(f"\r{outcome.tried} of {len(numbers)}", end="\r", flush=True)
    for kind, count in outcome.kinds.most_common():
        print(f"{count:6}  {kind}")
    print(f"{outcome.tried} tried, {outcome.tried - told} survived, {told} failed")
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main())
