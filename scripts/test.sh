#!/usr/bin/env bash
# Sets up .venv with the test extras where needed, then runs the tests. Arguments are passed on to pytest.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" test
.venv/bin/python -m pytest "$@"
