"""The environments under names of gymnasium: `gymnasium.make("mtrl_conic/push-v3")` and the like.

`import mtrl_conic` registers them. It imports gymnasium and numpy, but neither torch nor Meta-World: those are imported
when an environment is made.
"""

from __future__ import annotations

from gymnasium.envs import registration

from mtrl_conic.envs.shipped import HORIZON

NAMESPACE = "mtrl_conic"
VECTORS = ("MT10", "MT25", "MT50")
# Meta-World's own table of them takes half a second to import.
TASKS = (
    *("assembly-v3", "basketball-v3", "bin-picking-v3", "box-close-v3", "button-press-topdown-v3"),
    *("button-press-topdown-wall-v3", "button-press-v3", "button-press-wall-v3", "coffee-button-v3"),
    *("coffee-pull-v3", "coffee-push-v3", "dial-turn-v3", "disassemble-v3", "door-close-v3", "door-lock-v3"),
    *("door-open-v3", "door-unlock-v3", "drawer-close-v3", "drawer-open-v3", "faucet-close-v3", "faucet-open-v3"),
    *("hammer-v3", "hand-insert-v3", "handle-press-side-v3", "handle-press-v3", "handle-pull-side-v3"),
    *("handle-pull-v3", "lever-pull-v3", "peg-insert-side-v3", "peg-unplug-side-v3", "pick-out-of-hole-v3"),
    *("pick-place-v3", "pick-place-wall-v3", "plate-slide-back-side-v3", "plate-slide-back-v3"),
    *("plate-slide-side-v3", "plate-slide-v3", "push-back-v3", "push-v3", "push-wall-v3", "reach-v3"),
    *("reach-wall-v3", "shelf-place-v3", "soccer-v3", "stick-pull-v3", "stick-push-v3", "sweep-into-v3", "sweep-v3"),
    *("window-close-v3", "window-open-v3"),
)


def register() -> None:
    """Make the names known to gymnasium; again does nothing."""
    if f"{NAMESPACE}/{TASKS[0]}" in registration.registry:
        return
    for task in TASKS:
        registration.register(
            f"{NAMESPACE}/{task}",
            entry_point="mtrl_conic.envs.registered.task:GymnasiumTask",
            max_episode_steps=HORIZON,
            kwargs={"task": task},
        )
    for benchmark in VECTORS:
        registration.register(
            f"{NAMESPACE}/{benchmark}",
            vector_entry_point="mtrl_conic.envs.registered.vector:make_vector",
            kwargs={"benchmark": benchmark},
        )
