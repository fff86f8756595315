#!/usr/bin/env bash
# Makes the project's own virtual environment in .venv with the pinned versions of constraints.txt.
#   bash scripts/setup.sh [extra]     extra: one of the extras in pyproject.toml, such as test
# Installs only when something changed since the last time. PYTHON names the interpreter (default: python3).
set -euo pipefail
cd "$(dirname "$0")/.."

extra=${1:+[$1]}
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "setup: Python 3.11 or later is needed; $python is $("$python" --version 2>&1). Set PYTHON." >&2
  exit 2
}

[ -x .venv/bin/python ] || "$python" -m venv .venv
stamp=".venv/.installed${1:+-$1}"
wanted=$(cat pyproject.toml constraints.txt | cksum)
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  echo "setup: installing mtrl_conic$extra into .venv (a few minutes the first time)" >&2
  # pip would compile all that it installs; Python compiles what is imported, which is a small part of it.
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -e ".$extra" -c constraints.txt >&2
  echo "$wanted" >"$stamp"
fi
