"""From clips and systems to scores.json, the Markdown table and the page; resuming; comparisons; the commands."""

import base64
import html.parser
import io
import json
import re

import numpy as np
import pytest
import soundfile
import typer
from typer.testing import CliRunner

from spresso_jax.cli import evaluate as commands
from spresso_jax.cli import evaluated_systems
from spresso_jax.evaluate import curves as curve_pictures
from spresso_jax.evaluate import decoded, gain_tables, protocol, report, retrieval, tables
from spresso_jax.evaluate.bootstrap import Interval

RATE = 48_000


def sound(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft(rng.standard_normal(9600 + 480 * seed))
    spectrum *= np.interp(np.linspace(0, 7, spectrum.size), np.arange(8), np.exp(2 * rng.standard_normal(8)))
    audio = np.fft.irfft(spectrum)
    return (0.4 * audio / np.abs(audio).max()).astype(np.float32)


CLIPS = [decoded.Clip(f"clip/{seed}", sound(seed), f"<b>sound & {seed}</b>") for seed in range(6)]


def noisy(level: float, calls: list | None = None):
    def produce(clips, indices):
        if calls is not None:
            calls.extend(indices)
        return [
            np.pad(clip.audio + level * np.random.default_rng(i).standard_normal(clip.audio.size), (0, 100 * (i % 2)))
            for clip, i in zip(clips, indices, strict=True)
        ]

    return produce


def systems(calls: list | None = None, stamp: str = "one") -> list[decoded.System]:
    def coded(m: int, level: float) -> decoded.System:
        produce = noisy(level, calls)
        return decoded.System(f"model.m{m}", f"{m}0 kbps", "discrete", produce, stamp, "model", 10.0 * m, 5.0, m)

    return [
        protocol.source_system(),
        coded(1, 0.1),
        coded(2, 0.01),
        decoded.System("model.continuous", "continuous z", "continuous", noisy(0.002), stamp, "model", None, 5.0),
        *protocol.controls(CLIPS, [5.0]),
    ]


def gain_facts() -> dict:
    one = Interval(0.5, 0.4, 0.6, 6).to_json()
    losses = {"own": one, "other": one, "gain": one}
    bins = [{"sigma_low": 0.1 * 3**i, "sigma_high": 0.3 * 3**i, **losses} for i in range(3)]
    per_clip = {"own": [0.5] * 6, "gain": [0.5] * 6}
    entry = {"bins": bins, "overall": one, "relative": 0.3, "per_clip": per_clip}
    return {
        "operating_point": {"codebook_bits": 10, "frame_rate": 5},
        "provenance": "made <up>",
        "conditioning_gain": {"continuous z": entry, "2 codebooks": entry},
        "wiener": {"Wiener, one frame": [1.0, 0.9, 0.8]},
    }


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluation")
    options = protocol.Options(bootstrap_draws=100, candidates=4, extra={"steps": 8})
    scores = protocol.evaluate(CLIPS, systems(), out, options=options, models={"model": gain_facts()})
    return out, scores


def test_scores_hold_every_option_figure_and_clip(evaluated):
    out, scores = evaluated
    assert json.loads((out / "scores.json").read_text()) == scores == protocol.read_scores(out)
    assert scores["options"]["steps"] == 8 and scores["options"]["number_of_clips"] == 6
    assert scores["options"]["si_sdr"]["zero_mean"] is True
    assert [clip["name"] for clip in scores["clips"]] == [clip.name for clip in CLIPS]
    figure = scores["figures"]["model.m2"]["si_sdr"]
    assert figure["count"] == 6 and figure["low"] < figure["mean"] < figure["high"]
    assert len(scores["per_clip"]["model.m2"]["mel"]) == 6
    assert "si_sdr" not in scores["figures"]["source"]


def test_better_systems_score_better_and_controls_worst(evaluated):
    figures = evaluated[1]["figures"]
    order = ["model.continuous", "model.m2", "model.m1", "control-noise-5hz"]
    ratios = [figures[key]["si_sdr"]["mean"] for key in order]
    distances = [figures[key]["mel"]["mean"] for key in order[:3]]
    assert ratios == sorted(ratios, reverse=True) and distances == sorted(distances)
    assert figures["source"]["recall_mel_shape"]["mean"] == 1.0


def test_paired_comparisons_ask_whether_more_bits_help(evaluated):
    rows = [r for r in evaluated[1]["paired"] if r["why"] == "more bits"]
    assert {(r["first"], r["second"]) for r in rows} == {("model.m2", "model.m1")}
    assert all(r["improvement"]["low"] > 0 for r in rows if r["metric"] in ("si_sdr", "mel", "lsd"))


def test_models_of_the_same_bitrate_are_compared_with_each_other():
    names = ("step2", "step3")
    chosen = [decoded.System(f"{n}.m4", n, "discrete", noisy(0.1), "", n, 1.0, 5.0, 4) for n in names]
    values = {"step2.m4": {"mel": np.array([2.0, 3.0])}, "step3.m4": {"mel": np.array([1.0, 2.5])}}
    rows = tables.paired_comparisons(chosen, values, protocol.RECONSTRUCTION_METRICS)
    assert [(r["first"], r["second"], r["why"], r["improvement"]["mean"]) for r in rows] == [
        ("step3.m4", "step2.m4", "model", 0.75)
    ]


def test_markdown_table_shows_intervals_and_the_number_of_clips(evaluated):
    table = (evaluated[0] / "table.md").read_text()
    assert "6 clips" in table and "chance recall 0.250" in table and "SI-SDR (dB) ↑" in table
    assert re.search(r"\| 20 kbps \| 20 \| 2\d\.\d \[", table)


def test_evaluation_resumes_and_gives_the_same_numbers(tmp_path, evaluated):
    calls: list[int] = []
    options = protocol.Options(bootstrap_draws=100, candidates=4)
    decoded.decode_all(CLIPS, systems(calls)[1], tmp_path)
    assert calls == list(range(6))
    decoded.audio_path(tmp_path, "model.m1", CLIPS, 2).unlink()
    calls.clear()
    scores = protocol.evaluate(CLIPS, systems(calls)[:2], tmp_path, options=options)
    assert calls == [2]
    assert scores["figures"]["model.m1"]["si_sdr"] == evaluated[1]["figures"]["model.m1"]["si_sdr"]


def test_written_table_holds_the_denoising_loss_and_gain_by_noise_level(evaluated):
    out, scores = evaluated
    text = (out / "table.md").read_text()
    assert "| Wiener, one frame | 1.000 | 0.900 | 0.800 |" in text
    assert "| model: own 2 codebooks | 0.500 | 0.500 | 0.500 |" in text
    assert "sigma 0.3 to 0.9" in text and "0.500 [0.400, 0.600]" in text and "6 clips" in text
    assert "| model: 2 codebooks | model: continuous z | 0.00000 [0.00000, 0.00000] |" in text
    assert gain_tables.gain_markdown({**scores, "models": {"model": {"provenance": "x"}}}) == ""


def test_another_fingerprint_decodes_again(tmp_path):
    calls: list[int] = []
    decoded.decode_all(CLIPS, systems(calls)[1], tmp_path)
    decoded.decode_all(CLIPS, systems(calls, stamp="two")[1], tmp_path)
    assert calls == 2 * list(range(6))


def test_samples_beyond_full_scale_are_counted(tmp_path):
    loud = decoded.System("loud", "loud", "folder", lambda clips, rows: [3.0 * clip.audio for clip in clips], "")
    assert decoded.decode_all(CLIPS, loud, tmp_path).clipped == 6
    assert np.abs(decoded.read_decoded(tmp_path, "loud", CLIPS, 0)).max() <= 1.0


def test_outputs_that_are_not_finite_are_refused(tmp_path):
    broken = decoded.System("x", "broken", "folder", lambda c, r: [np.full(5, np.nan) for _ in c], "")
    with pytest.raises(ValueError, match="broken gave samples that are not finite for clip 'clip/0'"):
        decoded.decode_all(CLIPS, broken, tmp_path)


def test_a_system_that_is_silent_scores_at_the_bottom(tmp_path):
    silent = decoded.System("silent", "silent", "folder", lambda clips, rows: [np.zeros(9) for _ in clips], "")
    figures = protocol.evaluate(CLIPS, [protocol.source_system(), silent], tmp_path)["figures"]["silent"]
    assert figures["si_sdr"]["mean"] == -80.0 and figures["recall_mel_shape"]["mean"] == 0.0


@pytest.mark.parametrize(("clips", "message"), [
    (CLIPS[:1], "at least 2 clips"),
    ([CLIPS[0], CLIPS[0]], "two clips are called"),
    ([CLIPS[0], decoded.Clip("x", np.array([np.nan]))], "finite"),
])
def test_sets_on_which_nothing_can_be_measured_are_refused(clips, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        protocol.evaluate(clips, [protocol.source_system()], tmp_path)


def test_cut_takes_the_first_seconds_and_drops_trailing_zeros():
    assert decoded.cut(np.array([1.0, 0.0, 2.0, 0.0, 0.0])).tolist() == [1.0, 0.0, 2.0]
    assert decoded.cut(np.ones(300_000)).size == 240_000 and decoded.cut(np.zeros(50)).size == 1


class Page(html.parser.HTMLParser):
    """Collects tags and attributes; void elements are not expected to close."""

    VOID = ("meta", "img", "source", "br", "link")

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(evaluated, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "quantizer"
    run.mkdir()
    lines = [{"step": s, "split": "train", "time": 0.0, "loss": 1.0 / (s + 1), "grad_norm": 2.0} for s in range(80)]
    lines += [{"step": s, "split": "val", "time": 0.0, "loss": 1.5 / (s + 1), "mse": None} for s in range(0, 80, 20)]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 80, "spl')
    text = report.write_report(evaluated[0], [run], sounds=2).read_text()
    return text, Page(text)


def test_page_is_self_contained_and_well_formed(page):
    text, parsed = page
    assert not parsed.open
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), f"{tag} {name} {value[:40]}"
    assert "url(" not in text and "@import" not in text and "http" not in re.sub(r"data:[^\"]*", "", text)


def test_page_has_a_row_a_sound_and_a_column_a_system(page):
    _, parsed = page
    rows = [a for t, a in parsed.tags if t == "article"]
    players = [a for t, a in parsed.tags if t == "audio"]
    assert len(rows) == 2 and len(players) == 2 * 4
    assert all("controls" in player and player["aria-label"] for player in players)
    assert all(a.get("alt") for t, a in parsed.tags if t == "img")


def test_players_hold_sixteen_bit_flac_of_the_clip(page):
    player = next(a for t, a in page[1].tags if t == "audio")
    content = io.BytesIO(base64.b64decode(player["src"].split(",")[1]))
    info = soundfile.info(content)
    assert (info.format, info.subtype, info.samplerate, info.frames) == ("FLAC", "PCM_16", RATE, CLIPS[0].audio.size)


def test_captions_are_escaped(page):
    assert "<b>sound" not in page[0] and "&lt;b&gt;sound &amp; 0&lt;/b&gt;" in page[0] and "made &lt;up&gt;" in page[0]


def test_page_shows_operating_points_gain_curves_and_chance(page):
    text = page[0]
    assert "20 kbps" in text and "× 2 codebooks × 10 bits" in text and "38× smaller" in text
    assert "Denoising loss, paired" in text and ">unclear<" in text
    assert "What the code carries" in text and "loss of quantizer over training steps" in text
    assert "0.250" in text and 'class="best"' in text and "prefers-color-scheme: dark" in text


def test_script_is_short(page):
    script = re.search(r"<script>(.*)</script>", page[0], re.S).group(1)
    assert len(script.strip().splitlines()) <= 45


def test_best_counts_what_prints_equal_as_equal(evaluated):
    scores = json.loads(json.dumps(evaluated[1]))
    for key in ("model.m1", "model.m2"):
        scores["figures"][key]["mel"]["mean"] = 1.2301 if key == "model.m1" else 1.2299
    column = [m["key"] for m in scores["metrics"]].index("mel")
    cells = {row["label"]: row["cells"][column] for row in report.figures_table(scores)["rows"]}
    assert [label for label, cell in cells.items() if cell and cell["best"]] == ["10 kbps", "20 kbps"]


def test_loss_names_put_validated_losses_first_and_leave_rates_out():
    both = {"loss": 1.0, "learning_rate": 0.1, "mel": 2.0}
    events = [{"step": step, "split": split, **both} for step in (1, 2) for split in ("train", "val")]
    events += [{"step": s, "split": "train", "feature_matching": 1.0, "flag": True, "gone": None} for s in (1, 2)]
    curves = curve_pictures.curves_by_name(events)
    assert curve_pictures.loss_names(curves) == ["loss", "mel", "feature_matching"]


def test_report_says_what_is_missing(tmp_path, evaluated):
    with pytest.raises(ValueError, match="scores.json: no such file"):
        report.write_report(tmp_path)
    with pytest.raises(ValueError, match="metrics.jsonl: no such file"):
        report.write_report(evaluated[0], [tmp_path])


@pytest.fixture
def app():
    app = typer.Typer()
    commands.register(app)
    return app


@pytest.fixture
def folders(tmp_path):
    for name, level in (("reference", 0.0), ("decoded", 0.05)):
        folder = tmp_path / name / "below"
        folder.mkdir(parents=True)
        for clip in CLIPS:
            noise = level * np.random.default_rng(1).standard_normal(clip.audio.size)
            soundfile.write(folder / f"{clip.name[-1]}.wav", clip.audio + noise, RATE, subtype="FLOAT")
    return tmp_path


def test_two_folders_are_compared_and_reported(app, folders):
    out = folders / "out"
    runner = CliRunner()
    result = runner.invoke(
        app, ["evaluate", str(folders / "decoded"), "--reference", str(folders / "reference"), "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    figures = json.loads((out / "scores.json").read_text())["figures"]
    assert figures["folder-decoded"]["si_sdr"]["count"] == 6 and "| decoded |" in result.output
    result = runner.invoke(app, ["report", str(out), "--sounds", "1"])
    assert result.exit_code == 0 and (out / "index.html").is_file(), result.output


@pytest.mark.parametrize(("arguments", "message"), [
    (["decoded", "--out", "out"], "give either --data"),
    (["decoded", "--reference", "nowhere", "--out", "out"], "no such folder"),
    (["nowhere", "--reference", "reference", "--out", "out"], "no decoded file"),
    (["decoded", "--data", "reference", "--out", "out"], "model"),
])
def test_mistakes_get_one_sentence_and_exit_code_two(app, folders, monkeypatch, arguments, message):
    monkeypatch.chdir(folders)
    result = CliRunner().invoke(app, ["evaluate", *arguments])
    assert result.exit_code == 2 and message in result.output
    assert "Traceback" not in result.output


def test_numbers_of_codebooks_are_read_or_refused():
    assert evaluated_systems.numbers("12, 4,4") == [4, 12]
    for text in ("a", "0", ","):
        with pytest.raises(ValueError, match="--codebooks"):
            evaluated_systems.numbers(text)


def test_control_noise_differs_between_clips_and_follows_the_seed():
    shuffled, noise = protocol.controls(CLIPS, [5.0, 5.0])
    first = noise.produce(CLIPS[:2], [0, 1])
    assert noise.frame_rate == 5.0 and not np.array_equal(first[0][:100], first[1][:100])
    np.testing.assert_array_equal(first[0], retrieval.envelope_noise(CLIPS[0].audio, 5.0, 0))
    assert shuffled.produce(CLIPS[:1], [0])[0] is not CLIPS[0].audio
