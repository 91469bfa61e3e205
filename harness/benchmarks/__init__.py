"""Speed, measured: training beside its peers, features, growth, start-up, and what the stage tree saves."""

from harness.files import PACKAGE

ROOT = PACKAGE.parent
BENCHMARK = ROOT / "scripts" / "benchmark.py"
