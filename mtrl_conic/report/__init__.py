"""Reports of any number of runs: `python -m mtrl_conic.report runs=runs/sweep out=report` (docs/report.md)."""
