#!/usr/bin/env bash
# Trains a list of combiners over a list of seeds, one run folder a pair; started again, it goes on where it was.
#   bash scripts/sweep_seeds.sh "ls cagrad conicgrad" "0 1 2" runs/sweep [key=value ...]
# Further arguments go to every run. A run that is complete is left as it is, an interrupted one is resumed.
set -euo pipefail
[ $# -ge 3 ] || {
  echo 'usage: sweep_seeds.sh "<combiners>" "<seeds>" <folder> [key=value ...]' >&2
  exit 2
}
combiners=$1 seeds=$2 folder=$3
shift 3
here=$(dirname "$0")
bash "$here/setup.sh"
python="$here/../.venv/bin/python"

for combiner in $combiners; do
  for seed in $seeds; do
    run="$folder/$combiner/seed_$seed"
    if [ -e "$run/config.yaml" ]; then
      "$python" -m mtrl_conic.train resume="$run"
    else
      "$python" -m mtrl_conic.train combiner="$combiner" seeds="[$seed]" run_dir="$run" "$@"
    fi
  done
done
