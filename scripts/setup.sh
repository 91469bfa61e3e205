# Sourced by the other scripts: makes .venv if it is missing and installs the project, with the extra $1 if it is not "".
# Reuses what is installed until pyproject.toml or the constraints change. From the environment: PYTHON, the interpreter to
# begin with; CONSTRAINTS, a file of exact versions in place of scripts/constraints.txt. Empty (CONSTRAINTS= bash ...), the
# ranges of pyproject.toml hold, and a torch of your own that is in .venv already stays.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python="${PYTHON:-python3}"
constraints="${CONSTRAINTS-scripts/constraints.txt}"
version="$(cat pyproject.toml ${constraints:+"$constraints"} | sha256sum | cut -c1-16)"
stamp=".venv/.installed-$version-$1"
# What an extra installs holds all that the project needs without it.
if [ ! -e "$stamp" ] && ! { [ -z "$1" ] && compgen -G "$stamp*" >/dev/null; }; then
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
    rm -f .venv/.installed-*
    # Without --use-pep517, pip before 23.1 warns of how it builds a package that Hydra needs.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --use-pep517 \
        ${constraints:+--constraint "$constraints"} --editable ".${1:+[$1]}"
    touch "$stamp"
fi
