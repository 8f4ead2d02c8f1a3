"""Curves of the report as pictures in both colour schemes: over bitrate, frequency band, sigma and training steps."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spresso_jax.evaluate.bands import DEMO_PAGE_PROFILE
from spresso_jax.evaluate.bootstrap import Interval
from spresso_jax.evaluate.tables import DEMO_PAGE_LABEL, band_tables, format_interval
from spresso_jax.observe import pictures
from spresso_jax.observe.metrics import read_metrics

_MAX_PANELS = 4
_PREFERRED = ("loss", "total", "generator", "denoising", "raw", "mel", "mse", "error")
_NOT_LOSSES = ("rate", "norm", "seconds", "per_second", "memory", "epoch", "throughput", "lr", "time")


def gain_panels(scores: Mapping) -> list[dict]:
    """Per model: conditioning gain over sigma for every condition, and the loss beside the Wiener denoiser's."""
    panels = []
    for name, facts in scores["models"].items():
        gains = facts.get("conditioning_gain") or {}
        if gains:
            curves = {label: _band(entry, "gain") for label, entry in gains.items()}
            overall = [
                {
                    "label": label,
                    "text": format_interval(Interval.from_json(entry["overall"]), 4),
                    "relative": "" if entry["relative"] is None else f"{100 * entry['relative']:.1f} %",
                    "clear": Interval.from_json(entry["overall"]).clearly_positive,
                }
                for label, entry in gains.items()
            ]
            panel = _two_pictures(
                lambda palette, curves=curves: pictures.band_curves_png(
                    curves, title="conditioning gain", x_label="sigma", y_label="loss, other - own", palette=palette
                ),
                f"Conditioning gain of {name} over sigma",
            )
            panels.append({**panel, "model": name, "overall": overall})
            losses = {label: _band(entry, "own") for label, entry in gains.items()}
            for label, values in (facts.get("wiener") or {}).items():
                first = next(iter(gains.values()))["bins"]
                centres = [math.sqrt(b["sigma_low"] * b["sigma_high"]) for b in first]
                losses[label] = [(x, v, math.nan, math.nan) for x, v in zip(centres, values, strict=True)]
            panel = _two_pictures(
                lambda palette, losses=losses: pictures.band_curves_png(
                    losses, title="denoising loss on val", x_label="sigma", y_label="lambda MSE", palette=palette
                ),
                f"Denoising loss of {name} over sigma",
            )
            panels.append({**panel, "model": name, "overall": []})
    return panels


def rate_panels(scores: Mapping) -> list[dict]:
    """Every metric over the bitrate, a line a model, as the paper's figure 4; only where a model has two bitrates."""
    lines: dict[str, list[Mapping]] = {}
    for system in scores["systems"]:
        if system["kind"] == "discrete" and system["kbps"]:
            lines.setdefault(system["model"], []).append(system)
    lines = {name: sorted(own, key=lambda s: s["kbps"]) for name, own in lines.items()}
    if all(len(own) < 2 for own in lines.values()):
        return []
    panels = []
    for metric in scores["metrics"]:
        if metric["key"].startswith("rank_"):
            continue
        curves = {}
        for name, own in lines.items():
            intervals = [(s["kbps"], Interval.from_json(scores["figures"][s["key"]][metric["key"]])) for s in own]
            curves[name] = [(kbps, i.mean, i.low, i.high) for kbps, i in intervals if math.isfinite(i.mean)]
        curves = {name: points for name, points in curves.items() if points}
        if not curves:
            continue
        panels.append(
            _two_pictures(
                lambda palette, curves=curves, metric=metric: pictures.band_curves_png(
                    curves,
                    title=f"{metric['label']}, {metric['better']} is better",
                    x_label="kbps",
                    y_label=metric["unit"],
                    palette=palette,
                ),
                f"{metric['label']} over the bitrate",
            )
        )
    return panels


def band_panels(scores: Mapping) -> list[dict]:
    """Both measures of the band report over frequency, beside the authors' profile; none if bands were not measured."""
    panels = []
    for table in band_tables(scores):
        edges = scores["bands"]["edges_hz"]
        centres = [(low + high) / 2000.0 for low, high in zip(edges, edges[1:], strict=False)]
        # The linear codec keeps nothing above its last coefficient: -100 dB there would flatten all other lines.
        left_out = ("clips", "published") + (("linear",) if table["key"] == "energy_ratio" else ())
        rows = [row for row in table["rows"] if row["kind"] not in left_out][: len(pictures.COLOURS) - 1]
        curves = {
            row["label"]: [(x, c.mean, c.low, c.high) for x, c in zip(centres, row["cells"], strict=True)]
            for row in rows
        }
        curves[DEMO_PAGE_LABEL] = [
            ((b.low_hz + b.high_hz) / 2000.0, getattr(b, table["key"]), math.nan, math.nan) for b in DEMO_PAGE_PROFILE
        ]
        panels.append(
            _two_pictures(
                lambda palette, curves=curves, table=table: pictures.band_curves_png(
                    curves, title=table["label"], x_label="kHz", y_label="dB", log_x=False, palette=palette
                ),
                f"{table['label']} over frequency",
            )
        )
    return panels


def run_panels(run: Path) -> list[dict]:
    """Loss curves of one run, from its metrics.jsonl: a panel a name, train and val together.

    Raises:
      ValueError: if the file is missing or holds no numbers.
    """
    path = run if run.suffix == ".jsonl" else run / "metrics.jsonl"
    if not path.is_file():
        raise ValueError(f"{path}: no such file: give run folders that `spresso train` wrote")
    label = path.parent.name
    curves = curves_by_name(read_metrics(path))
    if not curves:
        raise ValueError(f"{path}: holds no metric with a finite value yet")
    panels = []
    for name in loss_names(curves)[:_MAX_PANELS]:
        panel = _two_pictures(
            lambda palette, name=name: pictures.loss_curves_png(
                curves[name], title=f"{label}: {name}", palette=palette
            ),
            f"{name} of {label} over training steps",
        )
        panels.append({**panel, "run": label, "name": name})
    return panels


def curves_by_name(events: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, tuple[list, list]]]:
    """Events -> name -> split -> (steps, values); values that are missing or not finite are left out."""
    curves: dict[str, dict[str, tuple[list, list]]] = {}
    for event in events:
        for name, value in event.items():
            if name in ("step", "split", "time") or not isinstance(value, (int, float)) or isinstance(value, bool):
                continue
            if math.isfinite(value):
                steps, values = curves.setdefault(name, {}).setdefault(str(event["split"]), ([], []))
                steps.append(event["step"])
                values.append(value)
    return curves


def loss_names(curves: Mapping[str, Mapping[str, tuple[list, list]]]) -> list[str]:
    """Names worth a picture, most telling first: losses before parts, with val before train only."""

    def rank(name: str) -> tuple:
        low = name.lower()
        preferred = next((i for i, word in enumerate(_PREFERRED) if word in low), len(_PREFERRED))
        return ("val" not in curves[name], preferred, len(name), name)

    points = {name: sum(len(steps) for steps, _ in splits.values()) for name, splits in curves.items()}
    kept = [n for n in curves if points[n] >= 2 and not any(word in n.lower() for word in _NOT_LOSSES)]
    return sorted(kept or curves, key=rank)


def _band(entry: Mapping, name: str) -> list[tuple[float, float, float, float]]:
    points = []
    for b in entry["bins"]:
        interval = Interval.from_json(b[name])
        points.append((math.sqrt(b["sigma_low"] * b["sigma_high"]), interval.mean, interval.low, interval.high))
    return points


def _two_pictures(draw: Callable[[pictures.Palette], bytes], alt: str) -> dict:
    return {
        "light": data_uri("image/png", draw(pictures.LIGHT)),
        "dark": data_uri("image/png", draw(pictures.DARK)),
        "alt": alt,
    }


def data_uri(kind: str, content: bytes) -> str:
    """Content as a link that carries itself."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
