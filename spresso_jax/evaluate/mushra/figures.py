"""Figures of a listening test: a box per condition with the listeners on top, and means per item."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from spresso_jax.evaluate.mushra.results import REFERENCE, is_anchor
from spresso_jax.observe.pictures import COLOURS, LIGHT

_BOUND = "#8b8983"
_BANDS = ((0, "bad"), (20, "poor"), (40, "fair"), (60, "good"), (80, "excellent"))


def box_plot(record: Mapping[str, Any], ratings: np.ndarray, conditions: Sequence[str], title: str) -> dict[str, bytes]:
    """Box over all ratings, points for listener means, mean with its 95 % interval over listener means.

    Args:
      record: `all` or `kept` of the score record.
      ratings: [L, I, C] of the same listeners.
      conditions: [C] names.

    Returns:
      The picture as "png" and "svg".
    """

    def draw(axes: Any) -> None:
        boxes = axes.boxplot(
            [ratings[:, :, i].ravel() for i in range(len(conditions))],
            positions=range(len(conditions)),
            widths=0.55,
            patch_artist=True,
            flierprops={"marker": ".", "markersize": 3, "markeredgecolor": LIGHT.grid},
            medianprops={"color": LIGHT.text, "linewidth": 1.2},
            whiskerprops={"color": LIGHT.text, "linewidth": 0.8},
            capprops={"color": LIGHT.text, "linewidth": 0.8},
        )
        rng = np.random.default_rng(0)
        for i, (name, box) in enumerate(zip(conditions, boxes["boxes"], strict=True)):
            colour = _colour(name, conditions)
            box.set(facecolor=colour, alpha=0.25, edgecolor=colour)
            means = np.asarray(record["listener_means"][name])
            spread = rng.uniform(-0.18, 0.18, means.size)
            axes.plot(i + spread, means, "o", color=colour, markersize=3, alpha=0.65, markeredgewidth=0)
            facts = record["conditions"][name]
            half = facts["ci95_t_listener_means"] or 0.0
            axes.errorbar(
                i + 0.36, facts["mean"], yerr=half, fmt="D", color=LIGHT.text, markersize=4, capsize=3, linewidth=1.4
            )
        axes.set_xticks(range(len(conditions)), [_label(name) for name in conditions], rotation=20, ha="right")
        axes.set_xlim(-0.6, len(conditions) - 0.3)

    return _both(draw, title, 130 + 90 * len(conditions))


def item_plot(
    record: Mapping[str, Any], items: Sequence[str], conditions: Sequence[str], title: str
) -> dict[str, bytes]:
    """Mean and 95 % interval over listeners of every condition at every item, as "png" and "svg"."""

    def draw(axes: Any) -> None:
        offsets = np.linspace(-0.3, 0.3, len(conditions))
        markers = "osD^vP*Xh<>p"
        for c, name in enumerate(conditions):
            facts = [record["items"][item][name] for item in items]
            axes.errorbar(
                np.arange(len(items)) + offsets[c],
                [f["mean"] for f in facts],
                yerr=[f["ci95_t_listener_means"] or 0.0 for f in facts],
                fmt=markers[c % len(markers)],
                markersize=4,
                linewidth=1.1,
                color=_colour(name, conditions),
                label=_label(name),
            )
        axes.set_xticks(range(len(items)), [_plain(item) for item in items], rotation=20, ha="right")
        axes.set_xlim(-0.6, len(items) - 0.4)
        axes.legend(frameon=False, fontsize=8, labelcolor=LIGHT.text, loc="upper left", bbox_to_anchor=(1.0, 1.0))

    return _both(draw, title, 330 + 75 * len(items))


def _colour(name: str, conditions: Sequence[str]) -> str:
    systems = [c for c in conditions if c != REFERENCE and not is_anchor(c)]
    return COLOURS[systems.index(name) % len(COLOURS)] if name in systems else _BOUND


def _label(name: str) -> str:
    if name == REFERENCE:
        return "hidden reference"
    return f"anchor {int(name.removeprefix('anchor')) / 10:g} kHz" if is_anchor(name) else _plain(name)


def _plain(text: str) -> str:
    """Text that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")


def _both(draw: Callable[[Any], None], title: str, width: int) -> dict[str, bytes]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "spresso"}):
        figure = Figure(figsize=(width / 100.0, 4.2), dpi=200, facecolor=LIGHT.background, layout="constrained")
        axes = figure.add_subplot()
        axes.grid(True, axis="y", color=LIGHT.grid, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_ylim(-2, 102)
        axes.set_yticks(range(0, 101, 20))
        axes.set_ylabel("MUSHRA score", color=LIGHT.text, fontsize=9)
        axes.set_title(_plain(title), color=LIGHT.text, fontsize=10, loc="left")
        draw(axes)
        for low, word in _BANDS:
            axes.text(
                0.004, (low + 12.0) / 104.0, word, transform=axes.transAxes, fontsize=7, color=_BOUND, va="center"
            )
        axes.tick_params(colors=LIGHT.text, labelsize=8, length=0)
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(LIGHT.grid)
        pictures = {}
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, facecolor=LIGHT.background, metadata=metadata)
            pictures[kind] = buffer.getvalue()
        return pictures
