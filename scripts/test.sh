#!/usr/bin/env bash
# Sets everything up and runs linter, type checker and tests:  bash scripts/test.sh
# Arguments go to pytest; -m slow runs the tests that take minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh test
bin=.venv/bin
# The tests start hundreds of processes: each module is compiled once for all of them, whatever the shell has set.
unset PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX="$PWD/.venv/pycache"
$bin/ruff check .
$bin/ruff format --check .
$bin/mypy
NO_MKDOCS_2_WARNING=1 $bin/mkdocs build --quiet
exec $bin/python -m pytest "$@"
