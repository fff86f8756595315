#!/usr/bin/env bash
# Checks and measures the path on a GPU: recorded steps against eager ones, then speed for one seed and for ten.
#   bash scripts/benchmark_gpu.sh [FOLDER]     FOLDER of speed_cuda.json (default: docs/results)
# The table of the whole loop ends with the hours that 2M steps per task take, evaluations included. PYTHON as in setup.sh;
# INSTALLED=python3 sets nothing up and takes an interpreter that has the packages. A failed check does not stop the
# measurements; the exit status is then 1.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-docs/results}
[ -d "$out" ] || {
  echo "benchmark_gpu: $out is no folder" >&2
  exit 2
}
python=${INSTALLED:-.venv/bin/python}
[ -n "${INSTALLED:-}" ] || bash scripts/setup.sh test
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || {
  echo "benchmark_gpu: torch finds no usable CUDA device on this machine" >&2
  exit 2
}
status=0
"$python" -m pytest -n 0 -k "cuda or gpu" tests/test_capture.py tests/combiners/test_properties.py || status=1
"$python" -m mtrl_conic.benchmark loop updates profile device=cuda matmul_precision=high seeds=1,10 \
  "json=$out/speed_cuda.json" || status=1
exit $status
