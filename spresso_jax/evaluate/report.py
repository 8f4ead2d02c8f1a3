"""The listening report: one self-contained HTML page from scores.json, the decoded files and the runs' metrics.

One row a sound, one column a system; players and spectrograms on one colour range per row; the table of figures; what
the code carries per noise level; loss curves. Nothing is fetched from elsewhere, and it works without JavaScript.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spresso_jax.bitrate import compression_ratio
from spresso_jax.evaluate.bootstrap import Interval
from spresso_jax.evaluate.protocol import format_interval, read_decoded, read_scores
from spresso_jax.observe import pictures
from spresso_jax.observe.metrics import read_metrics
from spresso_jax.shapes import EMBEDDING_CHANNELS, FRAME_RATE, SAMPLE_RATE

PAGE = "index.html"
SOUNDS = 12
LARGE_BYTES = 40_000_000
_MAX_PANELS = 4
_PREFERRED = ("loss", "total", "generator", "denoising", "raw", "mel", "mse", "error")
_NOT_LOSSES = ("rate", "norm", "seconds", "per_second", "memory", "epoch", "throughput", "lr", "time")


def write_report(
    out: str | Path, runs: Sequence[str | Path] = (), *, sounds: int = SOUNDS, page: str | Path | None = None
) -> Path:
    """Writes OUT/index.html.

    Args:
      out: folder that `spresso evaluate` filled.
      runs: run folders with metrics.jsonl, in the order of the stages.
      sounds: rows of the page; spread evenly over the clips.
      page: another place for the file.

    Returns:
      Path of the page.

    Raises:
      ValueError: if the scores, a decoded file or a run's metrics are missing.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    out = Path(out)
    scores = read_scores(out)
    if sounds < 1:
        raise ValueError(f"sounds must be at least 1, got {sounds}")
    curves = [panel for run in runs for panel in run_panels(Path(run))]
    chosen = np.unique(np.linspace(0, len(scores["clips"]) - 1, min(sounds, len(scores["clips"]))).round().astype(int))
    environment = Environment(
        loader=PackageLoader("spresso_jax.evaluate"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("report.html.j2").render(
        points=operating_points(scores),
        table=figures_table(scores),
        rates=rate_panels(scores),
        notes=table_notes(scores),
        rows=[sound_row(out, scores, int(index)) for index in chosen],
        columns=sum(1 for s in scores["systems"] if s["kind"] != "control"),
        total=len(scores["clips"]),
        comparisons=comparison_rows(scores),
        gains=gain_panels(scores),
        curves=curves,
        options=_options_text(scores["options"]),
        provenance=[
            {"name": f"{name}, {key}", "text": _plain(facts[key])}
            for name, facts in scores["models"].items()
            for key in ("provenance", "licence")
            if facts.get(key)
        ],
    )
    path = out / PAGE if page is None else Path(page)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")
    return path


def operating_points(scores: Mapping) -> list[dict]:
    """Header entries: one a discrete system, with bitrate, frame rate and both compression figures."""
    points = []
    pcm_kbps = SAMPLE_RATE * 16 / 1000.0
    for system in scores["systems"]:
        if system["kind"] != "discrete" or not system["kbps"]:
            continue
        point = scores["models"].get(system["model"], {}).get("operating_point", {})
        rate = system["frame_rate"] or FRAME_RATE
        told = point.get("frame_rate", rate)
        points.append(
            {
                "model": system["model"],
                "kbps": f"{system['kbps']:.3g}",
                "frame_rate": f"{told:.3g} frame{'' if told == 1 else 's'}/s",
                "codebooks": system["codebooks"],
                "bits": point.get("codebook_bits"),
                "ratio": f"{pcm_kbps / system['kbps']:,.0f}",
                "latent_ratio": f"{compression_ratio(EMBEDDING_CHANNELS, rate):,.0f}",
            }
        )
    return points


def figures_table(scores: Mapping) -> dict:
    """Head and rows of the table of figures; the best of the discrete systems is marked per metric."""
    arrows = {"higher": "↑", "lower": "↓"}
    head = [
        {"label": m["label"], "unit": m["unit"], "arrow": arrows[m["better"]], "better": m["better"]}
        for m in scores["metrics"]
    ]
    best = {m["key"]: _best(scores, m) for m in scores["metrics"]}
    rows = []
    for system in scores["systems"]:
        cells = []
        for metric in scores["metrics"]:
            facts = scores["figures"][system["key"]].get(metric["key"])
            interval = None if facts is None else Interval.from_json(facts)
            if interval is None or not interval.count or not math.isfinite(interval.mean):
                cells.append(None)
                continue
            digits = metric["digits"]
            cells.append(
                {
                    "mean": f"{interval.mean:.{digits}f}",
                    "interval": f"{interval.low:.{digits}f} to {interval.high:.{digits}f}",
                    "count": interval.count,
                    "left_out": interval.left_out,
                    "best": system["key"] in best[metric["key"]],
                }
            )
        rows.append(
            {
                "label": system["label"],
                "kind": system["kind"],
                "kbps": "" if system["kbps"] is None else f"{system['kbps']:.3g}",
                "cells": cells,
                "clipped": system.get("clipped", 0),
            }
        )
    chance = {}
    for key, facts in scores["chance"].items():
        chance[f"recall_{key}"] = f"{facts['recall']:.3f}"
        chance[f"rank_{key}"] = f"{facts['rank']:.1f}"
    return {"head": head, "rows": rows, "chance": [chance.get(m["key"]) for m in scores["metrics"]]}


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


def table_notes(scores: Mapping) -> list[str]:
    """Sentences under the table: number of clips, intervals, candidates, what was left out."""
    options = scores["options"]
    notes = [
        f"{options['number_of_clips']} clips. Small print: {options['bootstrap']['level']:.0%} bootstrap interval over "
        "clips. Bold: best among the bitrates."
    ]
    for facts in scores["chance"].values():
        notes.append(
            f"Retrieval: each decoded clip against {facts['candidates']} sources of like duration (longest ratio "
            f"{facts['widest_duration_ratio']:.2f}), active part only, levels aligned; "
            "the controls show what trivia alone would reach."
        )
        break
    left_out = max((f["left_out"] for row in scores["figures"].values() for f in row.values()), default=0)
    if left_out:
        notes.append(f"{left_out} silent clips have no SI-SDR and no rank; they are left out of those figures.")
    coded = [s for s in scores["systems"] if s["kind"] != "control"]
    clipped = [f"{s['label']} ({s['clipped']})" for s in coded if s.get("clipped")]
    if clipped:
        notes.append("Clips beyond full scale, clipped in the file: " + ", ".join(clipped) + ".")
    return notes


def comparison_rows(scores: Mapping) -> list[dict]:
    """Paired comparisons as sentences' parts, with the verdict that the interval allows."""
    labels = {s["key"]: s["label"] for s in scores["systems"]}
    metrics = {m["key"]: m for m in scores["metrics"]}
    rows: dict[tuple[str, str], dict] = {}
    for entry in scores["paired"]:
        interval = Interval.from_json(entry["improvement"])
        metric = metrics[entry["metric"]]
        row = rows.setdefault(
            (entry["first"], entry["second"]),
            {"first": labels[entry["first"]], "second": labels[entry["second"]], "cells": {}},
        )
        verdict = "better" if interval.clearly_positive else "worse" if interval.clearly_negative else "unclear"
        row["cells"][metric["key"]] = {"text": format_interval(interval, metric["digits"]), "verdict": verdict}
    return [{**row, "cells": [row["cells"].get(key) for key in metrics]} for row in rows.values()]


def sound_row(out: Path, scores: Mapping, index: int) -> dict:
    """One sound: caption, and per system a player's source and a spectrogram, all on the source's colour range."""
    names = [clip["name"] for clip in scores["clips"]]
    clip = scores["clips"][index]
    source = _read(out, "source", names, index)
    levels = pictures.colour_range(source)
    cells = []
    for system in scores["systems"]:
        if system["kind"] == "control":
            continue
        audio = source if system["key"] == "source" else _read(out, system["key"], names, index)
        si_sdr = scores["per_clip"][system["key"]].get("si_sdr")
        picture = pictures.spectrogram_png(audio, levels=levels, width=440, height=230)
        cells.append(
            {
                "label": system["label"],
                "kind": system["kind"],
                "detail": f"{system['codebooks']} codebooks" if system["codebooks"] else "",
                "audio": _data_uri("audio/flac", flac_bytes(audio)),
                "picture": _data_uri("image/png", picture),
                "alt": f"Spectrogram of {clip['caption'] or clip['name']}, {system['label']}, {clip['seconds']:.1f} s, "
                "20 Hz to 24 kHz on a logarithmic axis",
                "figure": None if not si_sdr or si_sdr[index] is None else f"SI-SDR {si_sdr[index]:.1f} dB",
            }
        )
    return {
        "title": clip["caption"] or clip["name"],
        "name": clip["name"],
        "seconds": f"{clip['seconds']:.2f}",
        "range": f"{levels[0]:.0f} to {levels[1]:.0f} dB",
        "cells": cells,
    }


def flac_bytes(audio: np.ndarray) -> bytes:
    """[S] as 16-bit FLAC, which every browser plays."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(audio, -1.0, 1.0 - 2.0**-15), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


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


def _best(scores: Mapping, metric: Mapping) -> set[str]:
    """Keys of the best systems among those that really transmit few bits; equal as printed counts as equal."""
    values = {}
    for system in scores["systems"]:
        facts = scores["figures"][system["key"]].get(metric["key"])
        if system["kind"] in ("discrete", "folder") and facts and facts["mean"] is not None:
            values[system["key"]] = round(facts["mean"], metric["digits"])
    if len(values) < 2:
        return set()
    best = (max if metric["better"] == "higher" else min)(values.values())
    return {key for key, value in values.items() if value == best}


def _band(entry: Mapping, name: str) -> list[tuple[float, float, float, float]]:
    points = []
    for b in entry["bins"]:
        interval = Interval.from_json(b[name])
        points.append((math.sqrt(b["sigma_low"] * b["sigma_high"]), interval.mean, interval.low, interval.high))
    return points


def _two_pictures(draw, alt: str) -> dict:
    return {
        "light": _data_uri("image/png", draw(pictures.LIGHT)),
        "dark": _data_uri("image/png", draw(pictures.DARK)),
        "alt": alt,
    }


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _read(out: Path, key: str, names: Sequence[str], index: int) -> np.ndarray:
    try:
        return read_decoded(out, key, names, index)
    except Exception as error:
        raise ValueError(f"{out}: the audio of {key!r} for {names[index]!r} is missing: evaluate again") from error


def _options_text(options: Mapping) -> list[tuple[str, str]]:
    return [(str(key).replace("_", " "), _plain(value)) for key, value in options.items()]


def _plain(value: Any) -> str:
    """Nested JSON as one readable line."""
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {_plain(entry)}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(entry) for entry in value)
    return str(value)
