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

all_steps=(environment rates resnet18 small_cnn small_cnn_graphs tests cifar10_94 cifar10_96 features)
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

# The requirement lines of pyproject.toml for these packages.
requirements() {
    "$python" - "$@" <<'PY'
import re, sys, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
lines = project["dependencies"] + sum(project["optional-dependencies"].values(), [])
print("\n".join(line for line in lines if re.match(r"[\w-]+", line)[0] in sys.argv[1:]))
PY
}

# For Python 3.12 on Linux, x86-64. torch and what comes with it is the other machine's own.
fetch_wheels() {
    local -a wanted peers
    mkdir -p "$1" || exit 2
    mapfile -t wanted < <(requirements hydra-core pydantic plotext rich filelock pytest hypothesis)
    mapfile -t peers < <(requirements lightning timm)
    local -a target=(--disable-pip-version-check --quiet --dest "$1" --find-links "$1" --only-binary=:all:
        --python-version 3.12 --implementation cp --abi cp312 --abi abi3 --abi none
        --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform any)
    "$python" -m pip wheel --disable-pip-version-check --quiet --no-deps --wheel-dir "$1" antlr4-python3-runtime==4.9.3 &&
        "$python" -m pip download "${target[@]}" "${wanted[@]}" &&
        "$python" -m pip download "${target[@]}" --no-deps "${peers[@]}" lightning-utilities torchmetrics tqdm || exit 1
    echo "$(find "$1" -name '*.whl' | wc -l) wheels in $1, $(du -sh "$1" | cut -f1)"
    exit 0
}

dry=false
steps=("${all_steps[@]}")
results="${OUT:-gpu_bench}"
while [ $# -gt 0 ]; do
    case "$1" in
        --dry) dry=true ;;
        --steps)
            IFS=, read -ra steps <<<"${2:?--steps needs names}"
            shift
            ;;
        --fetch-wheels) fetch_wheels "${2:?--fetch-wheels needs a folder}" ;;
        -h | --help)
            sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "$0"
            exit 0
            ;;
        -*) fail "$1: must be --dry, --steps NAMES, --fetch-wheels FOLDER or a folder for the results" ;;
        *) results="$1" ;;
    esac
    shift
done
for step in "${steps[@]}"; do
    [[ " ${all_steps[*]} " == *" $step "* ]] || fail "--steps $step: must be of ${all_steps[*]}"
done
total="${SECONDS_IN_ALL:-530}"
[[ "$total" =~ ^[0-9]+$ ]] || fail "SECONDS_IN_ALL=$total: must be a whole number of seconds"
mkdir -p "$results" || exit 2
results="$(cd "$results" && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
mkdir "$work/json"

if [ -n "${WHEELS:-}" ]; then
    shopt -s nullglob
    wheels=("$WHEELS"/*.whl)
    [ ${#wheels[@]} -gt 0 ] || fail "WHEELS=$WHEELS: must be a folder with wheels, made by --fetch-wheels"
    "$python" -m pip install --disable-pip-version-check --quiet --no-index --no-deps --target "$work/packages" \
        "${wheels[@]}" || fail "WHEELS=$WHEELS: cannot be installed for $("$python" --version)"
    export PYTHONPATH="$work/packages${PYTHONPATH:+:$PYTHONPATH}"
fi
"$python" -c 'import torch, hydra, pydantic, plotext, rich' ||
    fail "$python: must have torch and the packages of --fetch-wheels (give them with WHEELS=FOLDER)"

cifar=""
if [ -n "${DATA:-}" ]; then
    root="$DATA"
    if [ -f "$DATA" ]; then
        root="$work/data"
        mkdir "$root" && tar -xJf "$DATA" -C "$root" || fail "DATA=$DATA: cannot be unpacked; must be a tar.xz"
    fi
    root="$(cd "$root" 2>/dev/null && pwd)" || fail "DATA=$DATA: no such folder or file"
    cifar="$(find "$root" -maxdepth 3 -type d -name train | head -1)"
    [ -n "$cifar" ] || fail "DATA=$DATA: must be a folder, or a tar.xz of one, with train/<class>/ and test/<class>/"
    cifar="$(dirname "$cifar")"
fi

# A setting of train.py, where this version has it.
setting() { ! grep -q "^${1%%=*}:" conf/config.yaml || echo "$1"; }

read -ra eager <<<"compile=false $(setting cuda_graphs=false)"
read -ra fast <<<"compile=true $(setting cuda_graphs=true)"
# Kernels as fast as can be had, for every contestant.
common=(deterministic=false device=cuda precision=bf16)
images=(data=synthetic data.image_size=32 data.images=50000)
[ -z "$cifar" ] || images=(data=image_folder "data.root='$cifar'" data.image_size=32)
big=(model=resnet18 batch_size=512) small=(model=small_cnn batch_size=512)
few=(--rounds 1 --epochs-timed 3 --only "this harness,bare,DataLoader loop")
rounds=2 count=20000 epochs=12 chosen_features=(--only "determinism,TensorBoard,a checkpoint,stage,progress")
if $dry; then
    common=(deterministic=false device=cpu) fast=("${eager[@]}")
    images=(data=synthetic data.image_size=8 data.images=72)
    [ -z "$cifar" ] || images=(data=image_folder "data.root='$cifar'" data.image_size=8 data.train_size=64)
    big=(model=resnet18 batch_size=8) small=(model=small_cnn 'model.channels=[8,16]' batch_size=32)
    rounds=1 count=100 epochs=3 chosen_features=(--only determinism)
fi

bench() { "$python" scripts/benchmark.py "$@" --output "$work/json/$step.json"; }
compare() { bench train "${common[@]}" "${images[@]}" "$@"; }

environment() {
    {
        date -u
        nvidia-smi 2>/dev/null || echo "no nvidia-smi"
    } | tee "$results/environment.txt"
    "$python" - "$work/json/environment.json" <<'PY'
import json, sys
import torch
sys.path.insert(0, ".")
from harness.benchmarks.study import machine
found = machine()
if torch.cuda.is_available():
    found["device"] = torch.cuda.get_device_name()
    found["device_bytes"] = torch.cuda.get_device_properties(0).total_memory
print(json.dumps(found, indent=2))
json.dump(found, open(sys.argv[1], "w"))
PY
}
rates() { bench rates --rounds "$rounds" "${common[@]}"; }
resnet18() { compare "${big[@]}" "${fast[@]}" --rounds "$rounds" --seconds 90; }
small_cnn() { compare "${small[@]}" "${eager[@]}" "${few[@]}"; }
small_cnn_graphs() { compare "${small[@]}" "${fast[@]}" "${few[@]}"; }
tests() { "$python" -m pytest -k cuda -p no:cacheprovider; }
cifar10_94() { recipe; }
cifar10_96() { recipe; }
recipe() {
    "$python" train.py "experiment=$step" data=image_folder "data.root='$cifar'" data.image_size=32 \
        "hydra.run.dir=$work/$step" "stages.dir=$work/stages" && cp "$work/$step/summary.json" "$work/json/$step.json"
}
features() {
    # Each run reads its data anew, so these are few and made up.
    bench features --rounds 1 data=synthetic data.image_size=32 "data.images=$count" "${small[@]}" \
        "epochs=$epochs" "${common[1]}" "${chosen_features[@]}"
}

# Seconds that a step may take, by what it was measured or reckoned to need on one GPU.
declare -A limit=([environment]=40 [rates]=40 [resnet18]=180 [small_cnn]=80 [small_cnn_graphs]=100 [tests]=90
    [cifar10_94]=90 [cifar10_96]=150 [features]=150)

why_skipped() {
    case "$1" in
        cifar10_*)
            if [ ! -e "conf/experiment/$1.yaml" ]; then
                echo "there is no conf/experiment/$1.yaml"
            elif $dry || [ -z "$cifar" ]; then
                echo "needs DATA and a GPU"
            fi
            ;;
    esac
}

# Everything there is so far, so that a run that is cut off leaves its results.
collect() {
    "$python" - "$work/json" "$results/results.json" <<'PY'
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
pathlib.Path(sys.argv[2]).write_text(json.dumps(found, indent=1) + "\n")
PY
    for picture in "$work"/json/*.png; do
        [ ! -e "$picture" ] || cp "$picture" "$results/"
    done
}

# timeout needs a command of its own: the step's functions and variables go to a new shell.
run_step() {
    local left=$((total - SECONDS)) allowed="${limit[$step]}"
    if $dry || [ "$allowed" -gt "$left" ]; then
        allowed="$left"
    fi
    [ "$allowed" -gt 5 ] || return 124
    declare -p step python work results common images cifar big small few eager fast rounds count epochs \
        chosen_features >"$work/step.sh"
    declare -f bench compare recipe "$step" >>"$work/step.sh"
    timeout --kill-after=5 "$allowed" bash -c "set -o pipefail; source '$work/step.sh'; $step"
}

failed=0
printf '%-18s %-12s %s\n' step seconds result >"$results/summary.txt"
: >"$results/log.txt"
for step in "${steps[@]}"; do
    printf '\n== %s\n' "$step" | tee -a "$results/log.txt"
    began=$SECONDS
    if skipped="$(why_skipped "$step")" && [ -n "$skipped" ]; then
        result="skipped: $skipped"
    else
        run_step 2>&1 | tee -a "$results/log.txt"
        status=${PIPESTATUS[0]}
        case "$step:$status" in
            *:0) result="ok" ;;
            tests:5) result="skipped: no test has cuda in its name" ;;
            *:124 | *:137) result="FAILED: out of time" ;;
            *) result="FAILED: exit status $status" ;;
        esac
        [[ "$result" != FAILED* ]] || failed=1
    fi
    printf '%-18s %-12s %s\n' "$step" $((SECONDS - began)) "$result" >>"$results/summary.txt"
    collect
done
echo
cat "$results/summary.txt"
echo "written: $results ($(find "$results" -type f | wc -l) files)"
exit "$failed"
