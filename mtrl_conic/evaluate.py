"""The evaluation command: `python -m mtrl_conic.evaluate run=runs/x`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mtrl_conic.settings.arguments import wants_help
from mtrl_conic.system import console

USAGE = """\
usage: python -m mtrl_conic.evaluate run=RUN_DIR [key=value ...]

Evaluates the policies of a run as Meta-World does: every task on each of its 50 goals once, deterministic actions,
success at any step of the episode. Prints a table and writes JSON. A training may be at work in the folder.

settings (default)
  run=RUN_DIR                    the run folder; the only one that must be given
  checkpoint=best|last (best)    the weights of the best evaluation, or the newest
  seeds=[0,1,...] (all)          of the run's
  episodes=N (50)                per task and seed, on goals 0, 1, ...
  device=auto|cpu|cuda (as the run, else auto)
  workers=N (as the run)         processes that step the environments; 0: in this process
  out=PATH (RUN_DIR/evaluation_<checkpoint>.json, with seeds and episodes in the name where they are not the default)

  video=true|false (false)       also a captioned video per task, of the first of the seeds
  video_format=mp4|gif (mp4)     mp4 needs the extra: pip install 'mtrl_conic[video]'
  video_goals=[0,1,...] ([0])    the episodes shown, one after the other
  video_dir=PATH (RUN_DIR/videos)
Videos need no display, but EGL (system packages libegl1 and libgl1) or OSMesa (libosmesa6); MUJOCO_GL=egl|osmesa
chooses, else what works is found.

exit status: 0 done, 2 bad input, 129, 130 or 143 interrupted, 1 other
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if wants_help(arguments):
        print(USAGE, end="")
        return 0
    from mtrl_conic.policies.evaluate_run import run

    return run(arguments)


if __name__ == "__main__":
    sys.exit(console.run(main))
