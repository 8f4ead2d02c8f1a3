"""The listening report: one self-contained HTML page from scores.json, the decoded files and the runs' metrics.

One row a sound, one column a system; players and spectrograms on one colour range per row; the table of figures; frequency
bands; what the code carries per noise level; loss curves. Nothing is fetched from elsewhere, and it works without JavaScript.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spresso_jax.bitrate import compression_ratio
from spresso_jax.evaluate.bootstrap import Interval
from spresso_jax.evaluate.curves import band_panels, data_uri, gain_panels, rate_panels, run_panels
from spresso_jax.evaluate.decoded import read_decoded
from spresso_jax.evaluate.protocol import read_scores
from spresso_jax.evaluate.tables import BAND_NOTES, band_tables, format_interval
from spresso_jax.observe import pictures
from spresso_jax.shapes import EMBEDDING_CHANNELS, FRAME_RATE, SAMPLE_RATE

PAGE = "index.html"
SOUNDS = 12
LARGE_BYTES = 40_000_000


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
        bands=bands_section(scores),
        notes=table_notes(scores),
        rows=[sound_row(out, scores, int(index)) for index in chosen],
        columns=sum(1 for s in scores["systems"] if s["kind"] != "control"),
        total=len(scores["clips"]),
        comparisons=comparison_rows(scores),
        gains=gain_panels(scores),
        losses=loss_rows(scores),
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
    medians = scores.get("medians", {})
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
            median = medians.get(system["key"], {}).get(metric["key"])
            cells.append(
                {
                    "mean": f"{interval.mean:.{digits}f}",
                    "interval": f"{interval.low:.{digits}f} to {interval.high:.{digits}f}",
                    "median": "" if median is None else f"median {median['mean']:.{digits}f}",
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


def bands_section(scores: Mapping) -> dict | None:
    """Tables, curves and notes of the band report; None for scores without bands."""
    tables = []
    for table in band_tables(scores):
        rows = []
        for row in table["rows"]:
            cells = [{"value": c, "interval": ""} if isinstance(c, str) else _band_cell(c) for c in row["cells"]]
            rows.append({**row, "cells": cells})
        tables.append({**table, "rows": rows})
    return {"tables": tables, "panels": band_panels(scores), "notes": BAND_NOTES} if tables else None


def _band_cell(interval: Interval) -> dict:
    if not interval.count:
        return {"value": "–", "interval": ""}
    return {"value": f"{interval.mean:z.1f}", "interval": f"{interval.low:z.1f} to {interval.high:z.1f}"}


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
                "audio": data_uri("audio/flac", flac_bytes(audio)),
                "picture": data_uri("image/png", picture),
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


def loss_rows(scores: Mapping) -> list[dict]:
    """Paired comparisons of the denoising loss, with the verdict that the interval allows."""
    rows = []
    for entry in scores["paired_losses"]:
        interval = Interval.from_json(entry["improvement"])
        verdict = "better" if interval.clearly_positive else "worse" if interval.clearly_negative else "unclear"
        rows.append({**entry, "text": format_interval(interval, 4), "verdict": verdict, "count": interval.count})
    return rows


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
