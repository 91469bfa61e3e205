#!/usr/bin/env bash
# Sets up .venv with the test extras where needed, then runs the tests, in as many processes as there are cores, 8 at most.
# Arguments are passed on to pytest: -n 0 for a single process, -m fast for the first minute's answer.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" test
.venv/bin/python -m pytest -n auto --maxprocesses 8 --dist worksteal "$@"
