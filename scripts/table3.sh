#!/usr/bin/env bash
# The table of MT10 in the papers from CAGrad to ConicGrad: trains its rows and makes the report; --help explains.
#   bash scripts/table3.sh [only=ROWS] [seeds=SEEDS] [experiment=NAME] [out=FOLDER] [jobs=N] [key=value ...]
# PYTHON as in setup.sh; INSTALLED=python3 sets nothing up and takes an interpreter that has the packages.
set -euo pipefail
here=$(dirname "$0")

usage() {
  cat <<'USAGE'
usage: table3.sh [only=ROWS] [seeds=SEEDS] [experiment=NAME] [out=FOLDER] [jobs=N] [--config-dir DIR] [key=value ...]

Trains the rows of the MT10 table of the papers from CAGrad to ConicGrad, and makes the report with that table.
Started again with the same arguments it does what is missing. docs/table3.md has the details.

  only=ROWS        some of the rows, separated by commas (all):
                   ls stl multi-headed_sac soft_modularization pcgrad cagrad nashmtl_every_1 nashmtl_every_50
                   nashmtl_every_100 famo sdmgrad conicgrad
  seeds=SEEDS      (0,1,2,3,4,5,6,7,8,9) of each row, in one process; "seeds=0 1 2" is a process for each seed
  experiment=NAME  (mt10_fixed) the protocol nearest to the papers'; mt10 is that of Meta-World 3.x
  out=FOLDER       (runs/table3) a folder for each row, and report/index.html
  jobs=N           (1) processes at a time; with more than one, what they print goes to <run folder>.log
  hydra/launcher=joblib, submitit_slurm or ray, with hydra.launcher.<setting>=..., start the runs elsewhere
  Other arguments go to every run, such as steps_per_task=500000: python -m mtrl_conic.train --help

A run that fails is named, and the others go on.
exit status: 0 done, 1 some run failed, 2 bad input, 129, 130 or 143 interrupted (with checkpoints)
USAGE
}

seeds=0,1,2,3,4,5,6,7,8,9
out=runs/table3
rest=()
for argument in "$@"; do
  case $argument in
    -h | --help) usage && exit ;;
    seeds=*) seeds=${argument#*=} ;;
    out=*) out=${argument#*=} ;;
    *) rest+=("$argument") ;;
  esac
done

[ -n "${INSTALLED:-}" ] || bash "$here/setup.sh"
exec "${INSTALLED:-$here/../.venv/bin/python}" -m mtrl_conic.sweep variants=table3 "$seeds" "$out" "report=$out/report" \
  ${rest[@]+"${rest[@]}"}
