"""What the finished points of a sweep gave: held-out figures with their spread over the seeds, as a table and a picture."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spresso_jax.observe import pictures
from spresso_jax.observe.metrics import read_metrics
from spresso_jax.sweeps.folder import DONE, checkpoint_step, read_plan, state_of
from spresso_jax.sweeps.grid import SweepError

SECONDS = "seconds_per_step"
_BIN = "_bin_"


@dataclass(frozen=True)
class Spread:
    """Mean, lowest and highest of one figure over `n` seeds."""

    mean: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.fmean(values), min(values), max(values), len(values))

    def __str__(self) -> str:
        return f"{self.mean:.4g}" if self.n == 1 else f"{self.mean:.4g} ({self.low:.4g} to {self.high:.4g})"


@dataclass(frozen=True)
class Row:
    """One combination of the axes' values.

    Attributes:
      settings: axis -> value.
      seeds: those that are done.
      parameters, trained, flops, steps: as planned.
      figures: name -> spread over the seeds that have it.
    """

    settings: Mapping[str, Any]
    seeds: tuple[int, ...]
    parameters: int
    trained: int
    flops: float
    steps: int
    figures: Mapping[str, Spread]


@dataclass(frozen=True)
class Collection:
    """All rows of a sweep, in the order of its grid, and the points that have no figures.

    Attributes:
      plan: the contents of `sweep.json`.
      rows: only combinations with at least one finished seed.
      missing: point -> what is missing.
    """

    plan: Mapping[str, Any]
    rows: tuple[Row, ...]
    missing: Mapping[str, str] = field(default_factory=dict)


def collect(out: Path) -> Collection:
    """Reads the finished points of the sweep in `out`.

    Raises:
      SweepError: if `out` holds no sweep, or no point is done.
    """
    plan = read_plan(out)
    groups: dict[str, list[tuple[Mapping[str, Any], dict[str, float]]]] = {}
    missing = {}
    for name, point in plan["points"].items():
        run = out / name
        state = state_of(run)
        figures = point_figures(run, plan["metrics"]) if state == DONE else {}
        if figures:
            groups.setdefault(json.dumps(point["settings"]), []).append((point, figures))
        elif state == DONE:
            missing[name] = "done, but its metrics.jsonl holds no validation"
        else:
            reached = f", at step {checkpoint_step(run)} of {point['steps']}"
            missing[name] = f"{state}{reached if state != 'missing' else ''}"
    if not groups:
        raise SweepError(f"{out}: none of its {len(plan['points'])} points is done; run the same `spresso sweep` again")
    rows = [_row(members) for members in groups.values()]
    order = {axis: _places(plan, axis) for axis in plan["axes"]}
    rows.sort(key=lambda row: [order[axis][json.dumps(row.settings[axis])] for axis in plan["axes"]])
    return Collection(plan, tuple(rows), missing)


def point_figures(run: Path, metrics: Mapping[str, str]) -> dict[str, float]:
    """Figures of one finished run: name -> value.

    Of every metric and every noise level ("raw", "raw_bin_0.3") the figure after the last step; of the metrics also the best
    one of all validations ("raw, best"). With several sources their names are added ("raw on field"). `seconds_per_step` is
    the median of the log, which a first slow window cannot move.
    """
    path = run / "metrics.jsonl"
    found: dict[str, float] = {}
    events = read_metrics(path) if path.is_file() else []
    for event in events:
        split = str(event["split"])
        if split != "val" and not split.startswith("val/"):
            continue
        source = f" on {split.removeprefix('val/')}" if split != "val" else ""
        for name, value in event.items():
            metric = name.split(_BIN)[0]
            if metric not in metrics or not isinstance(value, (int, float)):
                continue
            found[f"{name}{source}"] = value
            if name == metric:
                choose = min if metrics[metric] == "lower" else max
                best = f"{name}{source}, best"
                found[best] = choose(value, found.get(best, value))
    times = [event[SECONDS] for event in events if event["split"] == "train" and event.get(SECONDS)]
    if found and times:
        found[SECONDS] = statistics.median(times)
    return found


def markdown(collected: Collection) -> str:
    """The table, with a second one by noise level, and what is missing."""
    plan, rows = collected.plan, collected.rows
    main = [name for name in _figure_names(collected) if _BIN not in name and name != SECONDS]
    lines = [
        f"# {plan['name']}",
        "",
        f"Stage {plan['stage']} on {Path(str(plan['source']['upstream'])).name}; mean over seeds, with the lowest and the highest"
        f" in brackets. {_better(plan['metrics'])}; best: of all validations of a run, otherwise after its last step.",
        "",
    ]
    header = [*plan["axes"], "seeds", "steps", "trained", "parameters", "GFLOP a step", *main, "seconds a step"]
    body = [
        [
            *map(str, row.settings.values()), str(len(row.seeds)), str(row.steps), millions(row.trained),
            millions(row.parameters), f"{row.flops / 1e9:.4g}", *_cells(row, main), *_cells(row, [SECONDS]),
        ]
        for row in rows
    ]  # fmt: skip
    lines += _table(header, body)
    for metric in plan["metrics"]:
        levels = [name for name in _figure_names(collected) if name.startswith(metric + _BIN)]
        if levels:
            header = [*plan["axes"], *(name.removeprefix(metric + _BIN) for name in levels)]
            body = [[*map(str, row.settings.values()), *_cells(row, levels)] for row in rows]
            lines += ["", f"{metric} by noise level (sigma):", "", *_table(header, body)]
    if collected.missing:
        lines += ["", f"Not in the table, {len(collected.missing)} of {len(plan['points'])} points:", ""]
        lines += [f"- {name}: {why}" for name, why in collected.missing.items()]
    return "\n".join(lines) + "\n"


def csv_text(collected: Collection) -> str:
    """One line a row; mean, lowest, highest and number of seeds of every figure."""
    names = _figure_names(collected)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = [f"{name}{part}" for name in names for part in ("", " low", " high", " n")]
    writer.writerow([*collected.plan["axes"], "seeds", "steps", "parameters", "trained", "flops_per_step", *columns])
    for row in collected.rows:
        values: list[Any] = []
        for name in names:
            spread = row.figures.get(name)
            values += ["", "", "", 0] if spread is None else [f"{spread.mean:.6g}", spread.low, spread.high, spread.n]
        seeds = " ".join(map(str, row.seeds))
        writer.writerow([*row.settings.values(), seeds, row.steps, row.parameters, row.trained, row.flops, *values])
    return buffer.getvalue()


def plot_png(collected: Collection, figure: str | None = None) -> bytes:
    """One figure over the plan's x axis, a line for each value of `lines` (and of any further axis), spread as bars.

    Args:
      figure: name of a figure; None: the plan's first metric.

    Raises:
      SweepError: if no row has such a figure.
    """
    plan, names = collected.plan, _figure_names(collected)
    chosen = figure or next((name for name in names if name.split(" on ")[0] in plan["metrics"]), "")
    if chosen not in names:
        raise SweepError(f"no figure is called {chosen!r}: choose one of {', '.join(names)}")
    values = [row.settings[plan["x"]] for row in collected.rows]
    numeric = all(isinstance(value, (int, float)) for value in values)
    places = _places(plan, plan["x"])
    curves: dict[str, list[tuple[float, float, float, float]]] = {}
    first = [plan["lines"]] if plan["lines"] else []
    others = [*first, *(axis for axis in plan["axes"] if axis not in (plan["x"], *first))]
    for row in collected.rows:
        if chosen not in row.figures:
            continue
        label = ", ".join(str(row.settings[axis]) for axis in others) or chosen
        x = row.settings[plan["x"]]
        spread = row.figures[chosen]
        at = float(x) if numeric else float(places[json.dumps(x)])
        curves.setdefault(label, []).append((at, spread.mean, spread.low, spread.high))
    return pictures.band_curves_png(
        {label: sorted(points) for label, points in curves.items()},
        title=plan["name"], x_label=plan["x"], y_label=chosen, log_x=False, bars=True, width=520, height=340,
    )  # fmt: skip


def millions(count: float) -> str:
    """12345678 -> "12.3 M"."""
    return f"{count / 1e6:.3g} M"


def _row(members: Sequence[tuple[Mapping[str, Any], Mapping[str, float]]]) -> Row:
    values: dict[str, list[float]] = {}
    for _, figures in members:
        for name, value in figures.items():
            if math.isfinite(value):
                values.setdefault(name, []).append(value)
    first = members[0][0]
    return Row(
        first["settings"], tuple(sorted(point["seed"] for point, _ in members)), first["parameters"], first["trained"],
        sum(first["flops"].values()), first["steps"], {name: Spread.of(found) for name, found in values.items()},
    )  # fmt: skip


def _places(plan: Mapping[str, Any], axis: str) -> dict[str, int]:
    """Value (as JSON) -> its place: numbers by size, words in the order in which the grid names them."""
    values = list(dict.fromkeys(json.dumps(point["settings"][axis]) for point in plan["points"].values()))
    numbers = [json.loads(value) for value in values]
    if all(isinstance(number, (int, float)) for number in numbers):
        values.sort(key=json.loads)
    return {value: place for place, value in enumerate(values)}


def _figure_names(collected: Collection) -> list[str]:
    """Figures of any row in the order of the plan's metrics, by noise level last; the log has them by letters."""
    metrics = list(collected.plan["metrics"])

    def place(name: str) -> tuple[bool, bool, int]:
        metric = name.split(_BIN)[0].split(" on ")[0].removesuffix(", best")
        return name == SECONDS, _BIN in name, metrics.index(metric) if metric in metrics else len(metrics)

    return sorted(dict.fromkeys(name for row in collected.rows for name in row.figures), key=place)


def _cells(row: Row, names: Sequence[str]) -> list[str]:
    return [str(row.figures[name]) if name in row.figures else "" for name in names]


def _better(metrics: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {better} is better" for name, better in metrics.items())


def _table(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    return [_line(header), _line(["---"] * len(header)), *map(_line, body)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
