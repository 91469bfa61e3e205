#!/usr/bin/env bash
# Sets up .venv where needed, then trains digits with MultiStepLR. Arguments are passed on to train.py.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" run
.venv/bin/python train.py scheduler=multistep data=digits "$@"
