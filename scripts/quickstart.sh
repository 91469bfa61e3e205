#!/usr/bin/env bash
# Sets up .venv where needed, then compares the three schedules on digits: five seeds each, and a report.
# Arguments are passed on to train.py.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" ""
.venv/bin/python train.py experiment=quickstart "$@"
