#!/usr/bin/env bash
# Writes scripts/constraints.txt anew: the newest versions that the ranges of pyproject.toml allow, of what they need too.
# pip resolves them without installing anything. PYTHON names the oldest Python of pyproject.toml (default python3.11):
# what supports that one is there for newer ones as well, which is checked for those of $others that are on this machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

oldest=3.11 others=(3.12 3.13)
python="${PYTHON:-python$oldest}"
if ! "$python" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$oldest')" 2>/dev/null; then
    echo "error: PYTHON=$python: must be Python $oldest" >&2
    exit 2
fi
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
"$python" -m venv "$work/venv"

# Prints name==version lines of what would be installed for an interpreter. Further arguments go to pip.
resolve() {
    "$work/venv/bin/python" -m pip --python "$1" install --quiet --disable-pip-version-check --dry-run \
        --ignore-installed --report "$work/report.json" "${@:2}" '.[test,lint,bench]'
    "$work/venv/bin/python" - "$work/report.json" <<'PY'
import json, re, sys
packages = [package["metadata"] for package in json.load(open(sys.argv[1]))["install"] if not package["is_direct"]]
versions = {re.sub(r"[-_.]+", "-", package["name"]).lower(): package["version"] for package in packages}
for name, version in sorted(versions.items()):
    if not name.startswith(("cuda-", "nvidia-")):
        print(f"{name}=={version.partition('+')[0]}")
PY
}

resolve "$work/venv/bin/python" >"$work/lines"
checked=()
for version in "${others[@]}"; do
    other="$("python$version" -c 'import sys; print(sys.executable)' 2>/dev/null)" || continue
    resolve "$other" -c "$work/lines" >"$work/other"
    if ! diff "$work/lines" "$work/other"; then
        echo "error: Python $version would get other packages (>) than Python $oldest (<)" >&2
        exit 1
    fi
    checked+=("$version")
done
cat - "$work/lines" >scripts/constraints.txt <<END
# The versions that setup.sh, .ci/run and the Dockerfile install, and that the tests were run with.
# Made on $(date -u +%F) by scripts/constraints.sh with Python $oldest; the same were found for: ${checked[*]:-not checked}.
# CUDA's packages (cuda-*, nvidia-*) are left out: torch itself names the versions of those that compute, and a torch of the
# same version that is built for the CPU or another CUDA needs none of them or others.
END
echo "written: scripts/constraints.txt, $(wc -l <"$work/lines") packages"
