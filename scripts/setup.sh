# Sourced by the other scripts: makes .venv if it is missing and installs the project with the extras named in $1.
# Reuses what is installed until pyproject.toml changes. PYTHON names the interpreter to begin with.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python="${PYTHON:-python3}"
version="$(sha256sum pyproject.toml | cut -c1-16)"
stamp=".venv/.installed-$1-$version"
# What `test` installs holds all that `run` would.
if [ ! -e "$stamp" ] && ! { [ "$1" = run ] && [ -e ".venv/.installed-test-$version" ]; }; then
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "error: PYTHON=$python: must be Python 3.11 or newer" >&2
        exit 2
    fi
    if [ ! -x .venv/bin/python ]; then
        echo "making .venv"
        rm -rf .venv
        "$python" -m venv .venv || { echo "error: $python -m venv failed; on Debian: apt-get install python3-venv" >&2; exit 2; }
    fi
    echo "installing into .venv (the first time takes some minutes, torch is large)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[$1]"
    touch "$stamp"
fi
