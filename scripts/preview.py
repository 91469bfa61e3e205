"""Show a schedule without training: python scripts/preview.py scheduler=multistep epochs=100 [--output lr.png]."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness.app.compose import compose_config
from harness.errors import run_script
from harness.views import preview


def main() -> None:
    """Print the plan's changes as a table, draw it in the terminal, and write it as a picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*", help="as for train.py, such as scheduler=step epochs=50")
    parser.add_argument("--output", type=Path, default=Path("lr.png"), help="the picture (default: lr.png)")
    arguments = parser.parse_args()
    config, name = compose_config(arguments.overrides)
    preview.show(config, name, arguments.output)


if __name__ == "__main__":
    run_script(main)
