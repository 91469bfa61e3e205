#!/usr/bin/env bash
# Shows the runs in and below a folder: tensorboard.sh [FOLDER] [arguments of tensorboard]. FOLDER is runs/ by default.
# It listens on loopback only, at port 6006 or the next free one, and keeps every point of every curve (up to 100,000;
# TensorBoard's own word for all, 0, leaves its TIME SERIES page empty).
set -euo pipefail
project="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
folder="$project/runs"
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
    folder="$1"
    shift
fi
if [ ! -d "$folder" ]; then
    echo "error: $folder: no such folder; train first, or name a folder that holds runs" >&2
    exit 2
fi
folder="$(cd "$folder" && pwd)"
[ -x "$project/.venv/bin/tensorboard" ] || source "$project/scripts/setup.sh" ""
echo "Without smoothing, which makes slides of steps: add ?smoothing=0#timeseries&_smoothingWeight=0 to the address."
exec "$project/.venv/bin/tensorboard" --logdir "$folder" --samples_per_plugin scalars=100000,images=100 "$@"
