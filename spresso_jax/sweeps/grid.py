"""A sweep as data, and its expansion into named points: every combination of the axes' values, once a seed."""

from __future__ import annotations

import ast
import itertools
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

_FIELDS = ("stage", "config", "axes", "seeds", "overrides", "metrics", "plot")
_REQUIRED = ("stage", "config", "axes", "metrics")
_WORD = re.compile(r"[a-z][a-z0-9_]*")
SEED = "seed"


class SweepError(ValueError):
    """A sweep or its folder cannot be used; the message names the file, axis or point and the remedy."""


@dataclass(frozen=True)
class Axis:
    """One thing that varies.

    Attributes:
      values: in the order of the table.
      key: dotted key of the config that takes the value; None for an axis that chooses the experiment's preset.
    """

    values: tuple[Any, ...]
    key: str | None = None


@dataclass(frozen=True)
class Sweep:
    """A grid of trainings of one stage.

    Attributes:
      name: of the sweep file and preset, for messages.
      stage: registry name.
      config: experiment and preset of the points, with preset axes in braces ("diffusion_ae:small-{rate}").
      axes: name -> axis, the first varying slowest.
      seeds: every combination is trained once with each.
      overrides: "dotted.key=value" texts for every point.
      metrics: validation figure -> "lower" or "higher", whichever is better; the first is the one that is drawn.
      x, lines: axes of the picture; `lines` may be None.
    """

    name: str
    stage: str
    config: str
    axes: Mapping[str, Axis]
    seeds: tuple[int, ...]
    overrides: tuple[str, ...]
    metrics: Mapping[str, str]
    x: str
    lines: str | None = None


@dataclass(frozen=True)
class Point:
    """One training of a sweep.

    Attributes:
      name: of its run folder, such as "25hz-depth4-seed0".
      settings: axis -> value.
      seed: of the run.
      config: experiment and preset.
      overrides: "dotted.key=value" texts.
    """

    name: str
    settings: Mapping[str, Any]
    seed: int
    config: str
    overrides: tuple[str, ...] = field(default=())


def read_sweep(name: str, fields: Mapping[str, Any]) -> Sweep:
    """A sweep from what `get_sweep` of a sweep file gives (see experiments/sweeps/encoder_depth.py).

    Raises:
      SweepError: naming the field that is unknown, missing or wrong.
    """
    _known(name, "field", fields, _FIELDS)
    for required in _REQUIRED:
        if not fields.get(required):
            raise SweepError(f"sweep {name}: {required} is missing or empty")
    axes = {}
    for title, facts in fields["axes"].items():
        if not _WORD.fullmatch(title) or title == SEED:
            raise SweepError(f"sweep {name}: axis {title!r} needs a lower-case word as its name, other than {SEED!r}")
        _known(name, f"entry of axis {title}", facts, ("key", "values"))
        axes[title] = Axis(_distinct(name, title, facts.get("values", ())), facts.get("key"))
    placed = {part for _, part, _, _ in string.Formatter().parse(fields["config"]) if part is not None}
    presets = {title for title, axis in axes.items() if axis.key is None}
    if placed != presets:
        raise SweepError(
            f"sweep {name}: config {fields['config']!r} has the axes {sorted(placed)} in braces, but those without a key are"
            f" {sorted(presets)}: give each of the others a key, or put it in braces"
        )
    wrong = [metric for metric, better in fields["metrics"].items() if better not in ("lower", "higher")]
    if wrong:
        raise SweepError(f'sweep {name}: metrics {", ".join(wrong)} must say which is better, "lower" or "higher"')
    plot = dict(fields.get("plot") or {})
    _known(name, "entry of plot", plot, ("x", "lines"))
    plot.setdefault("x", next(reversed(axes)))
    for axis in plot.values():
        _known(name, "axis in plot", [axis] if axis is not None else [], axes)
    return Sweep(
        name, fields["stage"], fields["config"], axes, _distinct(name, "seeds", fields.get("seeds", (0,))),
        tuple(fields.get("overrides", ())), dict(fields["metrics"]), plot["x"], plot.get("lines"),
    )  # fmt: skip


def with_values(sweep: Sweep, texts: Iterable[str]) -> Sweep:
    """The sweep with other values for some axes: "depth=2,6", "rate=25hz,1hz" or "seed=0,1,2".

    Raises:
      SweepError: if a text is malformed, or there is no such axis.
    """
    axes, seeds = dict(sweep.axes), sweep.seeds
    for text in texts:
        title, sign, listed = text.partition("=")
        if not sign or not listed:
            raise SweepError(f"--axis {text!r}: write name=value,value, for example depth=2,6")
        _known(sweep.name, "axis", [title], (*axes, SEED))
        values = _distinct(sweep.name, title, [_parsed(value.strip()) for value in listed.split(",")])
        if title == SEED:
            seeds = values
        else:
            axes[title] = replace(axes[title], values=values)
    if not all(isinstance(seed, int) for seed in seeds):
        raise SweepError(f"sweep {sweep.name}: seeds must be whole numbers, got {', '.join(map(str, seeds))}")
    return replace(sweep, axes=axes, seeds=seeds)


def points(sweep: Sweep, overrides: Sequence[str] = ()) -> list[Point]:
    """Every point of the grid, in the order of the axes, seeds innermost.

    Args:
      sweep: the grid.
      overrides: the user's own changes of every point; they come after the sweep's.

    Raises:
      SweepError: if an override sets what an axis or the seed varies, or two points would share a folder.
    """
    varied = {axis.key: title for title, axis in sweep.axes.items() if axis.key} | {SEED: SEED}
    for text in (*sweep.overrides, *overrides):
        key = text.partition("=")[0].strip()
        if key in varied:
            raise SweepError(f"--set {text}: the sweep varies {key}; choose its values with --axis {varied[key]}=...")
    found = []
    for values in itertools.product(*(axis.values for axis in sweep.axes.values())):
        settings = dict(zip(sweep.axes, values, strict=True))
        config = sweep.config.format(**settings)
        varying = [f"{axis.key}={settings[title]!r}" for title, axis in sweep.axes.items() if axis.key]
        titles = [f"{title if axis.key else ''}{_slug(settings[title])}" for title, axis in sweep.axes.items()]
        for seed in sweep.seeds:
            name = "-".join([*titles, f"{SEED}{seed}"])
            own = (*sweep.overrides, *overrides, *varying, f"{SEED}={seed}")
            found.append(Point(name, settings, seed, config, own))
    names = [point.name for point in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SweepError(f"sweep {sweep.name}: two points would be called {twice[0]}; give values that differ in letters")
    return found


def _slug(value: Any) -> str:
    """A value as a part of a file name."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", str(value)).strip("_.") or "_"


def _parsed(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _distinct(name: str, title: str, values: Iterable[Any]) -> tuple[Any, ...]:
    values = tuple(values)
    if not values or len(set(values)) != len(values):
        raise SweepError(f"sweep {name}: {title} needs at least one value, and none twice; got {list(values)}")
    return values


def _known(name: str, what: str, given: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    for word in given:
        if word not in known:
            near = get_close_matches(word, known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else f": choose one of {', '.join(known)}"
            raise SweepError(f"sweep {name}: there is no {what} called {word!r}{hint}")
