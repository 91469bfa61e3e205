#!/usr/bin/env bash
# All measurements that need a GPU, in parts, without network: bash scripts/gpu_bench.sh [OPTIONS] [PART...]
#
#   PART                    with the seconds that each may take on a GPU: rates 60, probe 400, resnet18 360,
#                           accuracy_short 150, accuracy_long 430, small_cnn 300, features 240, tests 400; without one,
#                           all of them. report takes none and brings summary.md up to date
#   --dry                   tiny sizes on the CPU
#   --results FOLDER        for PART.json, PART.png, summary.md and log.txt (default: gpu_bench)
#   --fetch-wheels FOLDER   where there is a network: put what the other machine may lack into FOLDER, and end
#
# A part that is finished is not taken again; one that was stopped goes on with what its file holds. A part is begun if
# the seconds that it may take are left. Each fits into SECONDS_IN_ALL with the set-up.
#
# From the environment: PYTHON (default .venv/bin/python where there is one, else python3), WHEELS (a folder made by
# --fetch-wheels, installed into a temporary folder only), DATA (32x32 images as a folder, or a tar.xz of one, with
# train/<class>/ and test/<class>/, decoded once into gpu_bench; without it made-up images of the same size and number,
# and no accuracy_* parts), SECONDS_IN_ALL (default 530).
# Exit status: 0 when every part asked for is ok, or skipped for a reason that is told; 1 when one failed, missed the
# accuracy aimed at, was stopped or not begun; 2 for a wrong call.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

began=$(date +%s)
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}
if [ -n "${PYTHON:-}" ]; then
    python="$PYTHON"
elif [ -x .venv/bin/python ]; then
    python="$PWD/.venv/bin/python"
else
    python=python3
fi

# The requirement lines of pyproject.toml for these packages, with | between.
requirements() { grep -oE "\"($1)[<>=!~][^\"]*\"" pyproject.toml | tr -d '"'; }

# For Python 3.12 on Linux, x86-64. torch and what comes with it is the other machine's own.
fetch_wheels() {
    local -a wanted peers
    mkdir -p "$1" || exit 2
    mapfile -t wanted < <(requirements 'hydra-core|pydantic|plotext|rich|filelock|pytest|hypothesis')
    mapfile -t peers < <(requirements 'lightning|timm')
    local -a target=(--disable-pip-version-check --quiet --dest "$1" --find-links "$1" --only-binary=:all:
        --python-version 3.12 --implementation cp --abi cp312 --abi abi3 --abi none
        --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform any)
    "$python" -m pip wheel --disable-pip-version-check --quiet --no-deps --wheel-dir "$1" antlr4-python3-runtime==4.9.3 &&
        "$python" -m pip download "${target[@]}" "${wanted[@]}" &&
        "$python" -m pip download "${target[@]}" --no-deps "${peers[@]}" lightning-utilities torchmetrics tqdm || exit 1
    echo "$(find "$1" -name '*.whl' | wc -l) wheels in $1, $(du -sh "$1" | cut -f1)"
    exit 0
}

case "${1:-}" in
    --fetch-wheels) fetch_wheels "${2:?--fetch-wheels needs a folder}" ;;
    -h | --help)
        sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "$0"
        exit 0
        ;;
esac

if [ -n "${WHEELS:-}" ]; then
    packages="$(mktemp -d)"
    trap 'rm -rf "$packages"' EXIT
    shopt -s nullglob
    wheels=("$WHEELS"/*.whl)
    [ ${#wheels[@]} -gt 0 ] || fail "WHEELS=$WHEELS: must be a folder with wheels, made by --fetch-wheels"
    "$python" -m pip install --disable-pip-version-check --quiet --no-index --no-deps --target "$packages" \
        "${wheels[@]}" || fail "WHEELS=$WHEELS: cannot be installed for $("$python" --version)"
    export PYTHONPATH="$packages${PYTHONPATH:+:$PYTHONPATH}"
fi
"$python" -c 'import torch, hydra, pydantic, plotext, rich' ||
    fail "$python: must have torch and the packages of --fetch-wheels (give them with WHEELS=FOLDER)"
"$python" scripts/benchmark.py gpu --began "$began" "$@"
