"""Subclasses of official classes whose functions see the quick helpers under the names of the package's."""

from __future__ import annotations

from functools import cache
from types import FunctionType
from typing import Any, cast

from mtrl_conic.envs.fast import exact, rewards
from mtrl_conic.envs.fast.sharing import SharingMixin

# What a task's module calls its helpers, and what stands in for them.
_HELPERS = {
    "np": rewards.fast_numpy,
    "reward_utils": rewards,
    "tolerance": rewards.tolerance,
    "Rotation": rewards.Rotation,
}
# The same to the last bit, for those who compare with the package.
_EXACT_HELPERS = _HELPERS | {"reward_utils": exact, "tolerance": exact.tolerance}
# Run once an episode or once only, on the package's own helpers.
_LEFT_ALONE = {"__init__", "reset_model", "model_name"}


def _undecorated(function: FunctionType) -> FunctionType:
    """The function within the package's `assert_task_is_set`, which asks the same question at every step."""
    if "func" in function.__code__.co_freevars:
        cell = function.__closure__[function.__code__.co_freevars.index("func")]  # type: ignore[index]
        return cell.cell_contents
    return function


def _with_globals(function: FunctionType, namespace: dict[str, Any]) -> FunctionType:
    function = _undecorated(function)
    copy = FunctionType(function.__code__, namespace, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _rebound(member: Any, namespace: dict[str, Any]) -> Any:
    """A copy of a function, static method or property with `namespace` for its globals; else None."""
    if isinstance(member, FunctionType):
        return _with_globals(member, namespace)
    if isinstance(member, staticmethod):
        return staticmethod(_with_globals(cast(FunctionType, member.__func__), namespace))
    if isinstance(member, property) and isinstance(member.fget, FunctionType):
        return property(_with_globals(member.fget, namespace))
    return None


@cache
def fast_class(shipped: type) -> Any:
    """The fast subclass of an official environment class, for `FastTaskEnv`."""
    made = _subclass(shipped, SharingMixin, _HELPERS)
    made.__name__ = f"Fast{shipped.__name__}"
    return made


@cache
def exact_class(shipped: type) -> Any:
    """A subclass that is used as the official class is, and returns the same bits.

    Its name and its module are the official ones: by the name the package tells what task an environment is of.
    """
    made = _subclass(shipped, exact.ExactMixin, _EXACT_HELPERS)
    made.__module__ = shipped.__module__
    return made


def _subclass(shipped: type, mixin: type, helpers: dict[str, Any]) -> Any:
    module = vars(shipped)["reset_model"].__globals__
    namespace = module | {name: helper for name, helper in helpers.items() if name in module}
    members = {
        name: copy
        for name, member in vars(shipped).items()
        if name not in _LEFT_ALONE and (copy := _rebound(member, namespace)) is not None
    }
    made = type(shipped.__name__, (mixin, shipped), members)
    namespace[shipped.__name__] = made  # a task may call its static methods by the name of its class
    return made
