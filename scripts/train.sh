#!/usr/bin/env bash
# Sets everything up and trains:  bash scripts/train.sh env=mt10 combiner=conicgrad
# Arguments go to `python -m mtrl_conic.train`; --help lists them.
set -euo pipefail
here=$(dirname "$0")
bash "$here/setup.sh"
exec "$here/../.venv/bin/python" -m mtrl_conic.train "$@"
