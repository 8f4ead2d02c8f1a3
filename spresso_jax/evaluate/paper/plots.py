"""Pictures of the comparisons: one panel a metric, drawn without a window or global state.

matplotlib is imported inside the functions.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spresso_jax.evaluate.paper.comparison import Comparison
from spresso_jax.observe.pictures import COLOURS, LIGHT

_PAPER, _OURS = COLOURS[1], COLOURS[0]
_LOG_SPAN = 30.0


@dataclass(frozen=True)
class Curve:
    """Points (x, value, low, high) of one line; low and high may be nan.

    Lines of one `group` share a colour; `dashed` ones stand for the state before.
    """

    name: str
    group: str
    points: tuple[tuple[float, float, float, float], ...]
    dashed: bool = False


def comparison_png(comparison: Comparison) -> bytes:
    """Ours (filled) and the paper's (hollow), a panel a metric; two axes where the embeddings differ."""
    columns, rows = comparison.columns, comparison.rows
    figure, panels = _panels(len(columns), 1, (2.0 + 1.9 * len(columns), 1.5 + 0.36 * len(rows)), sharey=True)
    places = range(len(rows))
    for axes, column in zip(panels[0], columns, strict=True):
        paper = [row.published.values[column.key] for row in rows]
        axes.plot(paper, places, "o", markersize=6, markerfacecolor="none", markeredgecolor=_PAPER, label="paper")
        ours = comparison.ours[column.key]
        found = [(i, row.cells[column.key].score) for i, row in enumerate(rows) if column.key in row.cells]
        found = [(i, score) for i, score in found if score is not None and math.isfinite(score.value)]
        together = bool(found) and all(rows[i].cells[column.key].difference is not None for i, _ in found)
        own = axes if together or not found else axes.twiny()
        for i, score in found:
            if math.isfinite(score.low) and math.isfinite(score.high):
                own.hlines(i, score.low, score.high, color=_OURS, linewidth=1.4, alpha=0.7)
        own.plot(
            [score.value for _, score in found], [i for i, _ in found], "o", color=_OURS, markersize=4, label="ours"
        )
        _log_if_wide(axes, [*paper, *(score.value for _, score in found if together)])
        axes.set_xlabel(column.title, color=LIGHT.text if together or not found else _PAPER, fontsize=9)
        if own is not axes:
            _log_if_wide(own, [score.value for _, score in found])
            own.set_xlabel(f"ours: {ours}", color=_OURS, fontsize=8)
            own.tick_params(colors=_OURS, labelsize=7, length=0)
            own.tick_params(which="minor", length=0, labelsize=0)
            for spine in own.spines.values():
                spine.set_visible(False)
    panels[0][0].set_yticks(list(places), [row.published.label for row in rows])
    panels[0][0].invert_yaxis()
    figure.suptitle(
        f"{comparison.table.title}: paper hollow, ours filled", fontsize=10, color=LIGHT.text, x=0.01, ha="left"
    )
    return _png(figure)


def curves_png(panels: Mapping[str, Sequence[Curve]], *, title: str, x_label: str, log_x: bool) -> bytes:
    """One panel for every metric; colours by group, dashed for the state before.

    Raises:
      ValueError: if there is nothing to draw.
    """
    drawn = {name: curves for name, curves in panels.items() if any(curve.points for curve in curves)}
    if not drawn:
        raise ValueError(f"{title}: no figure to draw")
    across = min(3, len(drawn))
    down = math.ceil(len(drawn) / across)
    figure, grid = _panels(across, down, (0.6 + 3.4 * across, 0.9 + 2.6 * down))
    groups = list(dict.fromkeys(curve.group for curves in drawn.values() for curve in curves))
    flat = [axes for line in grid for axes in line]
    handles: dict[str, Any] = {}
    for axes, (name, curves) in zip(flat, drawn.items(), strict=False):
        for curve in curves:
            colour = COLOURS[groups.index(curve.group) % len(COLOURS)]
            x, value, low, high = zip(*curve.points, strict=True)
            axes.vlines(x, low, high, color=colour, linewidth=1.2, alpha=0.6)
            style = {"linestyle": "--", "markerfacecolor": "white"} if curve.dashed else {}
            handles[curve.name] = axes.plot(x, value, color=colour, marker="o", markersize=4, linewidth=1.6, **style)[0]
        axes.set_title(name, color=LIGHT.text, fontsize=9, loc="left")
        axes.set_xlabel(x_label, color=LIGHT.text, fontsize=8)
        if log_x:
            axes.set_xscale("log")
            _plain_ticks(axes, sorted({point[0] for curve in curves for point in curve.points}))
    for axes in flat[len(drawn) :]:
        axes.set_visible(False)
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=min(4, len(handles)), frameon=False,
        fontsize=8, labelcolor=LIGHT.text,
    )  # fmt: skip
    figure.suptitle(title, fontsize=10, color=LIGHT.text, x=0.01, ha="left")
    return _png(figure)


def _panels(across: int, down: int, inches: tuple[float, float], sharey: bool = False) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, dpi=160, facecolor=LIGHT.background, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(down, across, sharey=sharey, squeeze=False)
    for axes in grid.ravel():
        axes.set_facecolor(LIGHT.background)
        axes.grid(True, color=LIGHT.grid, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(colors=LIGHT.text, labelsize=8, length=0)
        axes.tick_params(which="minor", length=0, labelsize=0)
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(LIGHT.grid)
    return figure, grid


def _log_if_wide(axes: Any, values: Sequence[float]) -> None:
    if values and min(values) > 0 and max(values) / min(values) > _LOG_SPAN:
        axes.set_xscale("log")


def _plain_ticks(axes: Any, points: Sequence[float]) -> None:
    """Numbers without exponents on a logarithmic axis: 1, 2 and 5 of a decade, or 1 alone over several decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    narrow = points[-1] / points[0] < 60
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=figure.get_facecolor(), metadata={"Software": None})
    return buffer.getvalue()
