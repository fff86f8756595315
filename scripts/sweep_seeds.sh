#!/usr/bin/env bash
# Trains combiners, or named variants, over seeds, one run folder per pair; started again, it does what is missing.
#   bash scripts/sweep_seeds.sh "ls cagrad conicgrad" "0 1 2" runs/sweep [jobs=N] [key=value ...]
#   bash scripts/sweep_seeds.sh variants=fast_ablation "0,1,2" runs/ablation [jobs=N] [key=value ...]
# --help explains; docs/sweeps.md has more, and the ways to use a cluster.
set -euo pipefail
here=$(dirname "$0")
bash "$here/setup.sh"
exec "$here/../.venv/bin/python" -m mtrl_conic.sweep "$@"
