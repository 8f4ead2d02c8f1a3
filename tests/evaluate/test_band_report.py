"""The band report from decoded files to scores.json, the Markdown tables and the page; scores of before."""

import json
import math
import re

import numpy as np
import pytest

from spresso_jax.evaluate import decoded, protocol, report, tables
from spresso_jax.evaluate.bands import LIMIT_DB
from spresso_jax.evaluate.curves import band_panels

SIX_DB = 20 * math.log10(2.0)
CLIPS = [
    decoded.Clip(f"clip {i}", (0.05 * np.random.default_rng(i).standard_normal(4800 + 480 * i)).astype(np.float32))
    for i in range(5)
]


def scaled(key: str, kind: str, gain: float, calls: list | None = None, **facts) -> decoded.System:
    def produce(clips, indices):
        if calls is not None:
            calls.extend(indices)
        return [gain * clip.audio for clip in clips]

    return decoded.System(key, f"the {key}", kind, produce, f"{gain}", **facts)


def systems(calls: list | None = None) -> list[decoded.System]:
    return [
        protocol.source_system(),
        scaled("linear", "linear", 1.0, calls),
        scaled("bound", "audio_ae", 0.5, calls),
        scaled("coded", "discrete", 0.25, calls, model="m", kbps=1.0, frame_rate=5.0, codebooks=2),
        *protocol.controls(CLIPS, [5.0]),
    ]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluation")
    options = protocol.Options(bootstrap_draws=50, candidates=3)
    return out, protocol.evaluate(CLIPS, systems(), out, options=options)


def test_scores_hold_the_bands_of_every_reconstruction(evaluated):
    out, scores = evaluated
    measured = json.loads((out / "scores.json").read_text())["bands"]
    assert measured == scores["bands"]
    assert set(measured["figures"]) == set(measured["per_clip"]) == {"linear", "bound", "coded"}
    # The files have 24 bits: the gain is kept to their rounding.
    for band in range(7):
        assert measured["figures"]["linear"]["snr"][band]["mean"] == LIMIT_DB
        assert measured["figures"]["bound"]["snr"][band]["mean"] == pytest.approx(SIX_DB, abs=1e-3)
        assert measured["figures"]["bound"]["energy_ratio"][band]["mean"] == pytest.approx(-SIX_DB, abs=1e-3)
        assert measured["figures"]["coded"]["energy_ratio"][band]["mean"] == pytest.approx(-2 * SIX_DB, abs=1e-3)
        assert measured["figures"]["coded"]["energy_ratio"][band]["count"] == len(CLIPS)
    assert len(measured["per_clip"]["bound"]["snr"]) == len(CLIPS)
    assert scores["options"]["bands"]["edges_hz"] == measured["edges_hz"]


def test_files_decoded_before_are_measured_without_decoding_again(tmp_path, evaluated):
    for system in systems():
        decoded.decode_all(CLIPS, system, tmp_path)
    calls: list[int] = []
    scores = protocol.evaluate(CLIPS, systems(calls), tmp_path, options=protocol.Options(bootstrap_draws=50))
    assert calls == [] and scores["bands"] == evaluated[1]["bands"]


def test_markdown_has_a_table_a_measure_beside_the_published_profile(evaluated):
    out, scores = evaluated
    text = tables.markdown_table(scores)
    assert (out / "table.md").read_text().startswith(text)
    snr, energy = text.split("| SNR (dB) |")[1].split("| energy, decoded over source (dB) |")
    assert snr.startswith(" 0–1 kHz | 1–4 kHz | 4–8 kHz | 8–12 kHz | 12–16 kHz | 16–20 kHz | 20–24 kHz |")
    assert "| clips | 5 | 5 | 5 | 5 | 5 | 5 | 5 |" in snr
    assert "| the bound | 6.0 [6.0, 6.0] |" in snr and "the coded" not in snr and "the coded" in energy
    assert "| the authors' AudioAE on 11 demo clips | 38.6 | 38.0 | 10.1 | -0.2 | -1.8 | -2.9 |" in snr
    assert "-2.3 (20–22), -2.2 (22–24) |" in snr and "-1.5 (20–22), -1.3 (22–24) |" in energy
    assert "public demo audio" in energy and "other clips than these" in energy
    widths = {line.count("|") for line in snr.splitlines() + energy.splitlines() if line.startswith("|")}
    assert widths == {9}


def test_si_sdr_has_its_median_where_the_waveform_is_aimed_at(evaluated):
    head, _, *rows = (evaluated[0] / "table.md").read_text().split("\n\n")[0].splitlines()
    column = [cell.strip() for cell in head.split("|")].index("SI-SDR, median (dB) ↑")
    cells = {row.split("|")[1].strip(): row.split("|")[column].strip() for row in rows}
    assert re.fullmatch(r"\d+\.\d \[\d+\.\d, \d+\.\d\]", cells["the bound"])
    assert cells["the coded"] == cells["source"] == ""
    values = evaluated[1]["per_clip"]["bound"]["si_sdr"]
    assert evaluated[1]["medians"]["bound"]["si_sdr"]["mean"] == pytest.approx(np.median(values), rel=1e-5)
    page = report.figures_table(evaluated[1])
    shown = {row["label"]: row["cells"][0]["median"] for row in page["rows"] if row["cells"][0]}
    assert shown["the bound"].startswith("median ") and shown["the coded"] == ""


def test_page_has_the_section_with_tables_and_curves_in_both_colour_schemes(evaluated, tmp_path):
    out, scores = evaluated
    page = report.write_report(out, sounds=1, page=tmp_path / "page.html").read_text()
    section = page.split('<section id="bands">')[1].split("</section>")[0]
    assert 'href="#bands"' in page and "<h2>Bands</h2>" in section
    assert section.count("<table>") == 2 and "38.6" in section and "20–24 kHz" in section
    assert "public demo audio" in section and "other clips than these" in section
    panels = band_panels(scores)
    assert len(panels) == section.count("<picture>") == 2 and all(p["light"] != p["dark"] for p in panels)


def test_coded_systems_alone_show_their_energy_only(evaluated):
    scores = json.loads(json.dumps(evaluated[1]))
    scores["systems"] = [s for s in scores["systems"] if s["kind"] not in ("linear", "audio_ae")]
    assert [table["key"] for table in tables.band_tables(scores)] == ["energy_ratio"]


def test_a_band_that_no_clip_has_is_a_dash(tmp_path):
    low = 0.1 * np.cos(np.pi * (np.arange(4800) + 0.5) * 100 / 4800)
    clips = [decoded.Clip(name, (gain * low).astype(np.float32)) for name, gain in (("a", 1.0), ("b", 0.5))]
    bound = scaled("bound", "audio_ae", 0.5)
    scores = protocol.evaluate(clips, [protocol.source_system(), bound], tmp_path)
    assert "| clips | 2 | 0 | 0 | 0 | 0 | 0 | 0 |" in tables.markdown_table(scores)
    assert "| the bound | 6.0 [6.0, 6.0] | – | – |" in tables.markdown_table(scores)
    page = report.write_report(tmp_path, sounds=1).read_text()
    assert "nan" not in page.split('<section id="bands">')[1].split("<picture>")[0]


def test_scores_written_before_bands_were_measured_still_render(evaluated, tmp_path):
    out, scores = evaluated
    before = {key: value for key, value in scores.items() if key not in ("bands", "medians")}
    before["options"] = {key: value for key, value in scores["options"].items() if key != "bands"}
    (tmp_path / "audio").symlink_to(out / "audio")
    (tmp_path / "scores.json").write_text(json.dumps(before))
    page = report.write_report(tmp_path, sounds=1).read_text()
    assert 'id="bands"' not in page and 'href="#bands"' not in page and "the bound" in page
    text = tables.markdown_table(protocol.read_scores(tmp_path))
    assert "kHz" not in text and "median" not in text and "| the bound |" in text
