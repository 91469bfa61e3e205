"""Look after the stage store: python scripts/stages.py ls|verify|gc [stages.dir=FOLDER] [stages.limit_gb=SIZE].

ls lists the states there are, and which a running sweep needs now; verify reads each and sets damaged ones aside; gc
deletes what damaged entries and killed processes left behind, and the states used longest ago beyond the limit, but
none that a running sweep needs.
"""

import argparse
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path

import rich
from rich.table import Table
from rich.text import Text

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from harness.app.compose import compose_config
from harness.errors import UserError, printable, run_script
from harness.stages.store import Entry, StageStore, open_store, verify
from harness.training.plan import rates_text

_WIDEST = 40  # characters of a cell


def _list(store: StageStore) -> int:
    entries, pinned = store.entries(), store.pinned()
    table = Table("key", "epochs", "last lr", "schedule", "seed", "MB", "last used", "", box=None)
    for entry in entries:
        note = entry.note()
        needed = "needed now" if entry.key in pinned else ""
        shown = (note.get("epoch", ""), _rates(note.get("lr")), note.get("scheduler", ""))
        row = (entry.key[:8], *shown, note.get("seed", ""), f"{entry.size / 1e6:.2f}", _when(entry.used), needed)
        # As Text, since brackets in a note are no markup.
        table.add_row(*(Text(printable(str(cell), kept="")[:_WIDEST]) for cell in row))
    if entries:
        rich.print(table)
    folder, limit = printable(str(store.folder)), f"{store.limit_bytes / 1e9:g} GB (stages.limit_gb)"
    print(f"{_sum(entries)} in {folder}; the limit is {limit}")
    return 0


def _rates(noted: object) -> str:
    """The learning rates in a note, which may be damaged."""
    rates = noted if isinstance(noted, dict) else {}
    return rates_text(rates) if rates and all(isinstance(rate, int | float) for rate in rates.values()) else ""


def _when(seconds: float) -> str:
    try:
        return datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, ValueError, OSError):  # a file may have a time that no calendar has
        return "?"


def _verify(store: StageStore) -> int:
    entries = store.entries()
    damaged = verify(entries, store)
    print(f"{_sum(entries)} read, {len(damaged)} damaged{' and set aside' if damaged else ''}")
    return 1 if damaged else 0


def _gc(store: StageStore) -> int:
    debris, gone = store.remove_debris(), store.evict(store.limit_bytes)
    print(f"{_sum(gone)} beyond the limit and {len(debris)} leftovers deleted; left: {_sum(store.entries())}")
    return 0


def _sum(entries: Sequence[Entry]) -> str:
    states = "1 state" if len(entries) == 1 else f"{len(entries):,} states"
    return f"{states} ({sum(entry.size for entry in entries) / 1e6:,.1f} MB)"


def main() -> int:
    """Run one command and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = {"ls": _list, "verify": _verify, "gc": _gc}
    parser.add_argument("command", choices=commands)
    parser.add_argument("overrides", nargs="*", help="settings such as stages.dir=FOLDER")
    arguments = parser.parse_args()
    stages = compose_config(arguments.overrides)[0].stages
    if stages.dir is None or not Path(stages.dir).is_dir():
        raise UserError(f"stages.dir={stages.dir or 'null'}: no such folder; must be that of a stage store")
    return commands[arguments.command](open_store(stages))


if __name__ == "__main__":
    run_script(main)
