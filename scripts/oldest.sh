#!/usr/bin/env bash
# Runs the tests with the oldest versions that pyproject.toml allows, in a temporary venv (6 GB in TMPDIR).
# Arguments are passed on to pytest. PYTHON names the interpreter (default python3.11, the oldest one supported).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3.11}" -m venv "$work/venv"
python="$work/venv/bin/python"
"$python" - >"$work/constraints.txt" <<'PY'
import re, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
for requirement in project["dependencies"] + project["optional-dependencies"]["test"]:
    print(re.match(r"[\w-]+>=[\w.]+", requirement)[0].replace(">=", "=="))
PY
"$python" --version
cat "$work/constraints.txt"
echo "installing these into $work (torch is large)"
"$python" -m pip install --quiet --disable-pip-version-check --constraint "$work/constraints.txt" --editable '.[test]'
"$python" -m pytest "$@"
