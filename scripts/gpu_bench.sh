#!/usr/bin/env bash
# All measurements that need a GPU, in under nine minutes, without network: bash scripts/gpu_bench.sh [OPTIONS] [RESULTS]
#
#   --dry                   the same steps with tiny sizes on the CPU
#   --steps a,b             only these steps, of: environment rates resnet18 small_cnn small_cnn_graphs tests
#                           cifar10_94 cifar10_96 features
#   --fetch-wheels FOLDER   where there is a network: put what the other machine may lack into FOLDER, and end
#   RESULTS                 folder for at most eight files (default: $OUT, else gpu_bench)
#
# From the environment: PYTHON (default .venv/bin/python where there is one, else python3), WHEELS (a folder made by
# --fetch-wheels, installed into a temporary folder only), DATA (CIFAR-10 as a folder, or a tar.xz of one, with
# train/<class>/ and test/<class>/; without it made-up images of the same size and number, and no cifar10_* steps),
# SECONDS_IN_ALL (default 530; a step that does not end in time is stopped, and the others go on).
# Exit status: 0 when every step that ran succeeded, 1 when one failed or ran out of time, 2 for a wrong call.
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
