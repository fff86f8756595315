"""Variants of one base against it: final success and success over training, and the curve of each."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl_conic.report import statistics
from mtrl_conic.report.curves import rate_axis
from mtrl_conic.report.grouping import Method, Section
from mtrl_conic.report.paper_table import is_row
from mtrl_conic.report.reading import Array
from mtrl_conic.report.style import FAINT, INK, LIGHT, Panel, Picture, short_number, steps_axis

BASE = "base"  # the name of the variant that the others are compared with
_WIDEST = 26  # letters of a name on one line


@dataclass(frozen=True)
class Score:
    """A mean over seeds and the interval of that mean, None for one seed."""

    mean: float
    interval: statistics.Interval | None


@dataclass(frozen=True)
class Effect:
    """What became of a variant.

    Args:
        method: its runs.
        final: success at its last step, mean over tasks.
        area: mean over all steps so far, the area under the curve of success by the length of its steps.
        elsewhere: whether its action repeat is not the base's, so that it is measured by another protocol.
    """

    method: Method
    final: Score
    area: Score
    elsewhere: bool


@dataclass(frozen=True)
class Ablation:
    """The variants of a section, the best final success first; `base` is one of them, where it was run."""

    effects: list[Effect]
    base: Effect | None


def ablation(section: Section, found: Sequence[Section], notes: list[str]) -> Ablation | None:
    """The variants among the methods of a section; None where there is nothing to compare.

    Rows of the papers' table are methods in a table of their own, not changes of one base.

    An action repeat is another protocol, hence another section. Its variants join the base's, if they have none.

    Args:
        section: whose.
        found: all sections.
        notes: what a reader should know is added here.
    """
    own = _variants(section)
    akin = [other for other in found if other is not section and _shared(other) == _shared(section)]
    bases = [method for method in own if method.variant == BASE]
    if len(bases) > 1:
        listed = "; ".join(method.label for method in bases)
        notes.append(f"{section.title}: several variants are the base, so there is no picture of effects: {listed}")
        return None
    others = [other for other in akin if not _has_base(other)] if bases else []
    if not own or (not bases and any(map(_has_base, akin))):  # drawn there
        return None
    effects = [_effect(method, False) for method in own]
    effects += [_effect(method, True) for other in others for method in _variants(other)]
    effects.sort(key=lambda effect: (-effect.final.mean, effect.method.label))
    base = next((effect for effect in effects if bases and effect.method is bases[0]), None)
    return Ablation(effects, base) if len(effects) > 1 else None


def _variants(section: Section) -> list[Method]:
    return [method for method in section.methods if method.variant is not None and not is_row(method)]


def _has_base(section: Section) -> bool:
    return any(method.variant == BASE for method in section.methods)


def _shared(section: Section) -> dict[str, str]:
    return {key: value for key, value in section.protocol.items() if key != "env.action_repeat"}


def _effect(method: Method, elsewhere: bool) -> Effect:
    success = method.success.mean(2)  # [T, S]
    return Effect(method, _score(success[-1]), _score(over_steps(method.steps, success)), elsewhere)


def over_steps(steps: NDArray[np.int64], success: Array) -> Array:
    """Mean over steps [T] of curves [T, S], straight between evaluations and from 0 at step 0 → [S]."""
    whole = np.concatenate((np.zeros_like(success[:1]), success))
    return np.asarray(np.trapezoid(whole, np.concatenate(([0], steps)), axis=0) / steps[-1])


def _score(values: Array) -> Score:
    """Of values [S]."""
    bounds = statistics.seed_bands(values[None], statistics.RESAMPLES)
    interval = None if bounds is None else statistics.Interval(float(bounds[0][0]), float(bounds[1][0]))
    return Score(float(values.mean()), interval)


def pictures(shown: Ablation) -> list[Picture]:
    """The effects, and with a base each variant's curve against it."""
    return [_effects(shown), _small_multiples(shown, shown.base)] if shown.base else [_effects(shown)]


def _effects(shown: Ablation) -> Picture:
    names = ["\n".join(textwrap.wrap(_name(effect, shown.base), _WIDEST)) for effect in shown.effects]
    size = (4.6, 0.95 + 0.23 * sum(1 + 0.55 * name.count("\n") for name in names))
    panels = []
    for title, what, score in (
        ("Final success", "success at the end", lambda effect: effect.final),
        ("Success over training", "success over all steps", lambda effect: effect.area),
    ):
        listed = ", ".join(f"{effect.method.label} {score(effect).mean:.2f}" for effect in shown.effects)
        draw = partial(_draw_effects, shown=shown, names=names, score=score)
        panels.append(Panel(title, f"Mean {what} of each variant: {listed}.", draw, size))
    caption = (
        "Mean over tasks and seeds; bar: 95 % bootstrap interval of that mean, drawn from whole seeds, which with two"
        " or three seeds is narrower than it should be. Over training: the area under the learning curve, from 0 at"
        " step 0, divided by its length. Both in the order of the final success."
    )
    if shown.base:
        caption += " Dashed line and grey band: the base and its interval; at the right the difference to it."
    if any(effect.elsewhere for effect in shown.effects):
        caption += (
            " Diamonds are measured by another protocol than the base, the same episodes with another action repeat:"
            " they say what the repeat is worth, and their own section has their numbers."
        )
    return Picture("ablation", "What each change is worth", caption, panels)


def _name(effect: Effect, base: Effect | None) -> str:
    """The label, with the step where it is not that of the base."""
    steps = int(effect.method.steps[-1])
    return effect.method.label + ("" if not base or steps == base.method.steps[-1] else f" (at {short_number(steps)})")


def _draw_effects(axis: Any, shown: Ablation, names: Sequence[str], score: Callable[[Effect], Score]) -> None:
    scores = [score(effect) for effect in shown.effects]
    base = None if shown.base is None else score(shown.base)
    if base is not None:
        if base.interval is not None:
            axis.axvspan(*base.interval, color=FAINT, alpha=0.14, linewidth=0)
        axis.axvline(base.mean, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
        axis.text(1.15, 1.012, "to base", fontsize=7.5, color=FAINT, ha="right", va="bottom", transform=axis.transAxes)
    for row, (effect, each) in enumerate(zip(shown.effects, scores, strict=True)):
        colour = INK if effect is shown.base else LIGHT[0]
        if each.interval is not None:
            axis.plot(each.interval, (row, row), color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt")
        axis.plot(each.mean, row, "D" if effect.elsewhere else "o", color=colour, markersize=5)
        if base is not None:
            text = f"{each.mean:.3f}" if effect is shown.base else _signed(each.mean - base.mean)
            place: Any = {"ha": "right", "va": "center", "transform": axis.get_yaxis_transform()}
            axis.text(1.15, row, text, fontsize=8, fontweight=_weight(effect, shown), **place)
    axis.set_yticks(range(len(names)), names)
    for label, effect in zip(axis.get_yticklabels(), shown.effects, strict=True):
        label.set_fontweight(_weight(effect, shown))
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_xlim(*_limits(scores))
    axis.grid(axis="x")
    axis.set_xlabel("success rate")


def _weight(effect: Effect, shown: Ablation) -> str:
    return "bold" if effect is shown.base else "normal"


def _signed(difference: float) -> str:
    """Such as "+0.012"; what rounds to nothing has no sign."""
    return f"{difference:+.3f}".replace("-", "−") if abs(difference) >= 0.0005 else "0.000"


def _limits(scores: Sequence[Score]) -> tuple[float, float]:
    """Around all that is drawn: what matters are differences, which from 0 to 1 would be small."""
    ends = [end for score in scores for end in (score.mean, *(score.interval or ()))]
    room = max(0.04 * (max(ends) - min(ends)), 0.01)
    return min(ends) - room, max(ends) + room


def _small_multiples(shown: Ablation, base: Effect) -> Picture:
    panels = []
    for effect in shown.effects:
        if effect is base:
            continue
        alt = (
            f"Learning curves: mean success over environment steps per task. At the end: {effect.method.label}"
            f" {effect.final.mean:.2f}, {BASE} {base.final.mean:.2f}."
        )
        draw = partial(_draw_curves, method=effect.method, base=base.method)
        panels.append(Panel("\n".join(textwrap.wrap(_name(effect, base), _WIDEST + 6)), alt, draw, (3.4, 2.3)))
    caption = (
        "Coloured: the variant; grey: the base. Success, mean over tasks and seeds; band: 95 % bootstrap interval of"
        " that mean, drawn from whole seeds."
    )
    return Picture("ablation_curves", "Each variant against the base", caption, panels, 3 if len(panels) < 10 else 5)


def _draw_curves(axis: Any, method: Method, base: Method) -> None:
    for each, colour in ((base, FAINT), (method, LIGHT[0])):
        success = each.success.mean(2)
        if (bands := statistics.seed_bands(success)) is not None:
            axis.fill_between(each.steps, *bands, color=colour, alpha=0.16, linewidth=0)
        axis.plot(each.steps, success.mean(1), linewidth=2, color=colour, marker="o", markersize=2.5)
    rate_axis(axis)
    steps_axis(axis, "")
