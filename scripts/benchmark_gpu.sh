#!/usr/bin/env bash
# Checks and measures the path on a GPU: recorded steps against eager ones, then speed for one seed and for ten.
#   bash scripts/benchmark_gpu.sh [FOLDER]     FOLDER of the JSON file (default: docs/results)
# The table of the whole loop ends with the hours that 2M steps per task take, evaluations included. PYTHON as in setup.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-docs/results}
[ -d "$out" ] || {
  echo "benchmark_gpu: $out is no folder" >&2
  exit 2
}
bash scripts/setup.sh test
python=.venv/bin/python
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || {
  echo "benchmark_gpu: torch finds no usable CUDA device on this machine" >&2
  exit 2
}
"$python" -m pytest -n 0 -k "cuda or gpu" tests/test_capture.py tests/combiners/test_properties.py
exec "$python" -m mtrl_conic.benchmark loop updates profile --device cuda --matmul-precision high --seeds 1,10 \
  --json "$out/speed_cuda.json"
