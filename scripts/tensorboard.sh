#!/usr/bin/env bash
# TensorBoard on this machine's own address, with every point of every curve: bash scripts/tensorboard.sh [FOLDER] [args].
# FOLDER is runs, a sweep or a run (default: runs); other arguments go to tensorboard.
start=$PWD
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" run
project=$PWD
cd "$start"

folder="$project/runs"
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
    folder=$1
    shift
fi
if [ ! -d "$folder" ]; then
    echo "error: $folder: must be a folder with runs; train one with: python train.py" >&2
    exit 2
fi
# Without --port TensorBoard takes the next free port when 6006 is taken.
exec "$project/.venv/bin/tensorboard" --logdir "$folder" --bind_all=false --samples_per_plugin scalars=0,images=100 "$@"
