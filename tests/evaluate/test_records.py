"""Test sets, records and their tables: what is left out is counted, a killed evaluation goes on, old scores still read."""

import json
import re

import numpy as np
import pytest
import soundfile
import typer
from typer.testing import CliRunner

from spresso_jax.cli import evaluate as commands
from spresso_jax.evaluate import decoded, protocol, reconstruction, record_tables, set_distances, test_sets
from spresso_jax.evaluate.clip_measures import ClipMeasures, measure_clips
from spresso_jax.evaluate.features.extractor import Extractor, sliding_windows
from spresso_jax.evaluate.latex_tables import escaped, latex_document
from spresso_jax.evaluate.score import EmbeddingSource, Score

RATE = 48_000
DRAWS = set_distances.DistanceOptions(fad_draws=3, kad_draws=10, permutations=9)


def sound(seed: int, samples: int = 9_600) -> np.ndarray:
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    audio = np.fft.irfft(spectrum * np.interp(np.linspace(0, 5, spectrum.size), np.arange(6), rng.random(6)))
    return (0.4 * audio / np.abs(audio).max()).astype(np.float32)


def toy(calls: list | None = None) -> Extractor:
    def cut(clip):
        if calls is not None:
            calls.append(clip.size)
        return sliding_windows(clip, 4_000, 4_000, max(clip.size // 4_000, 1)), clip.size < 4_000

    return Extractor(
        name="toy", sample_rate=8_000, dimension=4, window=4_000, cut=cut,
        network=lambda params, windows: abs(windows) @ params + 0.1,
        params=np.random.default_rng(0).random((4_000, 4), np.float32),
        settings={}, weights="0" * 64, licence="none",
    )  # fmt: skip


SETS = [
    test_sets.ClipSet(name, tuple(decoded.Clip(f"{i}", sound(10 * start + i)) for i in range(size)), asked=9, listed=9,
                      exclusions=left)
    for start, (name, size, left) in enumerate([("foley", 5, {"silent": ["x.wav"]}), ("am_bient", 4, {})])
]  # fmt: skip
CLIPS = test_sets.joined(SETS)
TOY = EmbeddingSource("toy", "1")


def noisy(level: float) -> decoded.System:
    def produce(clips, indices):
        return [
            clip.audio + level * np.random.default_rng(i).standard_normal(clip.audio.size).astype(np.float32)
            for clip, i in zip(clips, indices, strict=True)
        ]

    return decoded.System(f"noisy{level}", f"5% & {level}", "folder", produce, f"{level}", batch=2)


def run(out, calls=None, progress=None, **changes):
    systems = [noisy(0.01), noisy(0.2), *protocol.controls(CLIPS, [], 0, [5, 4])]
    options = protocol.Options(bootstrap_draws=50, distances=DRAWS)
    chosen = dict(options=options, sets=SETS, embeddings=[(toy(calls), TOY)], progress=progress)
    return protocol.evaluate(CLIPS, systems, out, **(chosen | changes))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    out = tmp_path_factory.mktemp("records")
    return out, run(out)


def assert_same(first, second):
    """Equal but for the rounding of sums, which may depend on where in memory an array lies."""
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert list(first) == list(second)
    if isinstance(first, (dict, list)):
        assert len(first) == len(second)
        for a, b in zip(*((x.values() if isinstance(x, dict) else x) for x in (first, second)), strict=True):
            assert_same(a, b)
    else:
        assert first == (pytest.approx(second, rel=1e-9, abs=1e-9) if isinstance(first, float) else second)


def by_place(scores):
    return {
        (r["system"], r["set"], r["label"]): Score.from_json({k: v for k, v in r.items() if k not in ("system", "set")})
        for r in scores["records"]
    }


def test_every_set_and_the_union_have_every_measure(evaluated):
    _, scores = evaluated
    found = by_place(scores)
    assert len(found) == len(scores["records"]) == 3 * 3 * (3 + 4 + 3)
    assert {place[1] for place in found} == {"foley", "am_bient", "union"}
    assert {place[2] for place in found} == {
        "SI-SDR", "mel distance", "log-spectral distance", "FAD[toy]", "KAD[toy]", "KAD-paired[toy]", "similarity[toy]",
        "FAD[mel-shape]", "KAD[mel-shape]", "KAD-paired[mel-shape]",
    }  # fmt: skip
    for part, clips in (("foley", 5), ("am_bient", 4), ("union", 9)):
        assert found["noisy0.2", part, "SI-SDR"].counts["clips"] == clips
        counts = found["noisy0.2", part, "FAD[toy]"].counts
        # 5 s of padded clip are ten windows of half a second, however short the sound.
        assert (counts["evaluation_clips"], counts["evaluation_rows"]) == (clips, 10 * clips)
        assert found["noisy0.2", part, "FAD[toy]"].value > found["noisy0.01", part, "FAD[toy]"].value
        assert found["control-shuffled", part, "FAD[toy]"].value < 1e-6
    assert found["noisy0.2", "union", "FAD[toy]"].options["audio"]["padded_to_seconds"] == 5.0
    assert "own length" in found["noisy0.2", "union", "SI-SDR"].options["audio"]
    assert [(s["name"], s["clips"], s["asked"]) for s in scores["sets"]] == [("foley", 5, 9), ("am_bient", 4, 9)]
    assert scores["sets"][0]["exclusions"] == {"silent": {"count": 1, "names": ["x.wav"]}}
    assert scores["clips"][5] == {**scores["clips"][5], "name": "am_bient/0", "set": "am_bient"}


def test_shuffled_clips_stay_within_their_set():
    (control,) = protocol.controls(CLIPS, [], 0, [5, 4])
    made = control.produce(CLIPS, range(9))
    for index, audio in enumerate(made):
        source = next(i for i, clip in enumerate(CLIPS) if clip.audio is audio)
        assert source != index and (source < 5) == (index < 5)


def test_a_killed_evaluation_goes_on_and_gives_the_same_scores(evaluated, tmp_path):
    class Killed(Exception):
        pass

    for last in ("distances of clips", "toy, 5% & 0.2", "distances of sets"):

        def progress(what, done, total, last=last):
            if what == last and done >= total // 2:
                raise Killed

        with pytest.raises(Killed):
            run(tmp_path, progress=progress)
    kept = sorted((tmp_path / "distances").iterdir())
    calls: list[int] = []
    assert_same(run(tmp_path, calls), evaluated[1])
    assert calls == []
    assert 0 < len(kept) < len(list((tmp_path / "distances").iterdir()))


def test_a_file_that_changed_is_measured_again(tmp_path):
    system = noisy(0.1)
    for made in (protocol.source_system(), system):
        decoded.decode_all(CLIPS, made, tmp_path)
    chosen = [protocol.source_system(), system]
    before = measure_clips(tmp_path, CLIPS, chosen)[system.key]
    soundfile.write(decoded.audio_path(tmp_path, system.key, CLIPS, 3), CLIPS[3].audio, RATE, subtype="PCM_24")
    after = measure_clips(tmp_path, CLIPS, chosen)[system.key]
    assert [a.si_sdr == b.si_sdr for a, b in zip(after, before, strict=True)] == [i != 3 for i in range(9)]
    facts = after[3].to_json()
    assert ClipMeasures.from_json(json.loads(json.dumps(facts, allow_nan=False))).to_json() == facts


def test_processes_measure_what_one_process_does(tmp_path, monkeypatch, evaluated):
    monkeypatch.setattr("spresso_jax.evaluate.clip_measures.LEAST_TASKS", 1)
    scores = run(tmp_path, workers=2, embeddings=())
    for name, values in evaluated[1]["per_clip"]["noisy0.2"].items():
        np.testing.assert_allclose(scores["per_clip"]["noisy0.2"][name], values, rtol=1e-5)


def test_a_silent_system_is_recorded_and_said(tmp_path):
    silent = decoded.System("silent", "silent", "folder", lambda c, rows: [np.zeros(9) for _ in c], "")
    found = by_place(protocol.evaluate(CLIPS, [silent], tmp_path, options=protocol.Options(distances=DRAWS)))
    shape = found["silent", "union", "FAD[mel-shape]"]
    assert np.isnan(shape.value) and "9 left out" in shape.notes[0]
    assert found["silent", "union", "SI-SDR"].counts["silent_estimates"] == 9
    assert {place[1] for place in found} == {"union"}
    assert "not measured" in (tmp_path / "table.md").read_text()


def test_si_sdr_records_agree_with_the_ones_made_from_audio(evaluated):
    out, scores = evaluated
    pairs = [[decoded.read_decoded(out, key, CLIPS, i) for i in range(9)] for key in ("source", "noisy0.2")]
    score, _ = reconstruction.si_sdr_score(*pairs, [clip.name for clip in CLIPS], draws=50)
    found = by_place(scores)["noisy0.2", "union", "SI-SDR"]
    assert (found.value, found.low, found.high) == (score.value, score.low, score.high)


def test_tables_name_embedding_set_and_what_was_left_out(evaluated):
    out, scores = evaluated
    text = (out / "table.md").read_text()
    assert "| system | set | FAD[toy] ↓ | KAD[toy] ↓ | KAD-paired[toy] ↓ | p of KAD-paired[toy] |" in text
    assert "Set foley: 5 clips (9 asked) of 9 listed; left out: 1 silent." in text
    tex = (out / "table.tex").read_text()
    assert r"5\% \& 0.2 & am\_bient &" in tex and tex.count(r"\toprule") == tex.count(r"\bottomrule") == 3
    assert tex.count("{") == tex.count("}") and "toprule" in latex_document(scores)
    for line in tex.splitlines():
        if line.endswith(r"\\") and not line.startswith("%"):
            assert len(re.findall(r"(?<!\\)&", line)) in (4, 5, 6)
    assert {path.name for path in (out / "plots").iterdir()} >= {"FAD-toy.png", "SI-SDR.png", "KAD-paired-mel-shape.png"}
    old = {key: value for key, value in scores.items() if key not in ("records", "sets")}
    assert record_tables.record_tables(old) == [] and record_tables.markdown_records(old) == ""
    assert escaped("a_b\\{x}~") == r"a\_b\textbackslash{}\{x\}\textasciitilde{}"


@pytest.fixture
def folders(tmp_path):
    for part in SETS:
        for folder in ("sounds", "decoded"):
            (tmp_path / folder / part.name).mkdir(parents=True)
        for clip in part.clips:
            soundfile.write(tmp_path / "sounds" / part.name / f"{clip.name}.wav", clip.audio, RATE, subtype="FLOAT")
            late = np.concatenate([np.zeros(7, np.float32), clip.audio])
            soundfile.write(tmp_path / "decoded" / part.name / f"{clip.name}.flac", late, RATE)
    return tmp_path


def write_useless(folder):
    soundfile.write(folder / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(folder / "late.wav", np.concatenate([np.zeros(6 * RATE), sound(1)]), RATE)
    soundfile.write(folder / "nan.wav", np.full(RATE, np.nan, np.float32), RATE, subtype="FLOAT")
    soundfile.write(folder / "short.wav", sound(2)[:100], RATE)
    (folder / "broken.wav").write_bytes(b"RIFF" + bytes(50))


def test_useless_files_are_counted_and_replaced_by_others(folders):
    folder = folders / "sounds" / "foley"
    write_useless(folder)
    found = test_sets.read_set("foley", folder, 5, seed=1)
    assert len(found.clips) == 5 and found.listed == 10
    everything = test_sets.read_set("foley", folder, 9, seed=1)
    assert sum(map(len, everything.exclusions.values())) == 5 and len(everything.clips) == 5
    assert {name for names in everything.exclusions.values() for name in names} == {
        "silent.wav", "late.wav", "nan.wav", "short.wav", "broken.wav"
    }  # fmt: skip
    assert everything.exclusions["silent within 5 s"] == ["late.wav"] and everything.exclusions["too_short"]
    assert [c.name for c in test_sets.read_set("foley", folder, 3, seed=2).clips] == [
        c.name for c in test_sets.read_set("foley", folder, 3, seed=2).clips
    ]


def test_two_sets_peers_layout_delay_and_missing_files_from_the_command_line(folders, monkeypatch):
    monkeypatch.setattr("spresso_jax.evaluate.features.registry.load_embedding", lambda asked: toy())
    app = typer.Typer()
    commands.register(app)
    (folders / "decoded" / "foley" / "3.flac").unlink()
    (folders / "decoded" / "foley" / "4.flac").write_bytes(b"nothing")
    words = ["evaluate", str(folders / "decoded" / "{set}"), "--out", str(folders / "out"), "--draws", "10"]
    words += ["--max-delay", "20", "--workers", "1", "--embedding", "toy"]
    for part in SETS:
        words += ["--reference", f"{part.name}={folders / 'sounds' / part.name}"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2 and "1 of 5 references have no decoded file, first '3'" in result.output
    assert "--incomplete" in result.output and not (folders / "out").exists()
    result = CliRunner().invoke(app, [*words, "--incomplete"])
    assert result.exit_code == 0, result.output
    scores = json.loads((folders / "out" / "scores.json").read_text())
    assert [s["clips"] for s in scores["sets"]] == [3, 4]
    left = scores["sets"][0]["exclusions"]
    assert left["no decoded file in foley"]["names"] == ["3"] and left["decoded file in foley: unrecognised"]["count"] == 1
    assert [s["key"] for s in scores["systems"]] == [
        "source", "linear", "folder-decoded", "control-lowpass-3.5khz", "control-shuffled"
    ]  # fmt: skip
    assert scores["systems"][2]["delay"] == 7
    found = by_place(scores)
    assert found["folder-decoded", "union", "SI-SDR"].value > 40.0
    assert found["folder-decoded", "union", "SI-SDR"].options["delay"]["removed_samples"] == 7
    assert found["folder-decoded", "am_bient", "FAD[toy]"].counts["reference_clips"] == 4


@pytest.mark.parametrize(("asked", "message"), [
    (["nowhere"], "no such folder"),
    (["union=sounds"], "set name 'union'"),
    (["sounds", "sounds"], "two sets are called 'sounds'"),
])
def test_sets_that_cannot_be_told_apart_are_refused(folders, monkeypatch, asked, message):
    monkeypatch.chdir(folders)
    with pytest.raises(ValueError, match=message):
        test_sets.named_folders(asked)
