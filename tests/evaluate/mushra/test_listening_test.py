"""Exported tests: what webMUSHRA needs holds for every file, levels are set once an item, and mistakes are named."""

import json
import re

import numpy as np
import pytest
import soundfile
import yaml

from data_pipeline.audio_files import AudioFileError
from spresso_jax.audio.loudness import integrated_loudness
from spresso_jax.evaluate.mushra.listening_test import check_test, export_test
from spresso_jax.evaluate.mushra.pages import PAGE_KEYS, check_config, flat_pages

RATE = 48_000


def noise(seed, seconds, level=0.1):
    return (level * np.random.default_rng(seed).uniform(-1.0, 1.0, round(seconds * RATE))).astype(np.float32)


@pytest.fixture
def folders(tmp_path):
    """References a, b/c, d and two systems; lengths, rates, channels and formats differ."""
    for name in ("ref", "loud", "soft"):
        (tmp_path / name / "b").mkdir(parents=True)
    for seed, name in enumerate(("a", "b/c", "d")):
        sound = noise(seed, 4.0 + seed)
        soundfile.write(tmp_path / "ref" / f"{name}.wav", sound, RATE)
        soundfile.write(tmp_path / "loud" / f"{name}.flac", 2.0 * sound, RATE)
        soundfile.write(tmp_path / "soft" / f"{name}.wav", 0.25 * np.stack([sound, sound], 1)[::2], RATE // 2)
    return tmp_path


def export(folders, out="test", **options):
    systems = options.pop("systems", {"loud": folders / "loud", "soft": folders / "soft"})
    return export_test(folders / "ref", systems, folders / out, **{"items": 2, **options})


def test_every_file_of_every_page_is_as_webmushra_needs_it(folders):
    notes = []
    plan = export(folders, anchor70=True, seed=3, progress=notes.append)
    assert plan.pages == 2 and plan.conditions == ("reference", "loud", "soft", "anchor70", "anchor35")
    config = yaml.safe_load(plan.config.read_text())
    pages = check_config(config, "test")
    assert [page["id"] for page in pages][0] == "training" and len({page["id"] for page in pages}) == 3
    for page in pages:
        for path in (page["reference"], *page["stimuli"].values()):
            info = soundfile.info(folders / "test" / path)
            assert (info.samplerate, info.frames, info.channels, info.subtype) == (RATE, 240_000, 2, "PCM_24")
            audio, _ = soundfile.read(folders / "test" / path)
            assert np.array_equal(audio[:, 0], audio[:, 1]) and np.abs(audio).max() <= 10 ** (-1 / 20) + 1e-6
        assert not page["showConditionNames"] and page["randomize"]
        assert not page["createAnchor35"] and not page["createAnchor70"]
    assert [type(page) for page in config["pages"]].count(list) == 1 and config["pages"][-2][0] == "random"
    assert not config["pages"][-1]["showResults"]
    assert any("soft: 2 channels, mixed to one" in note for note in notes)
    readme = (folders / "test" / "README.md").read_text()
    assert f"?config={config['testId']}.yaml" in readme and "2 pages in random order" in readme


def test_the_gain_of_an_item_comes_from_its_reference_and_goes_to_all(folders):
    export(folders, chosen=("a", "b/c"), loudness=-30.0)
    facts = json.loads((folders / "test" / "plan.json").read_text())["items"]
    assert [item["name"] for item in facts.values()] == ["a", "b/c"] and list(facts) == ["01-a", "02-b-c"]
    root = folders / "test" / "configs" / "listening-test"
    for page in facts:
        level = {
            name: integrated_loudness(soundfile.read(root / page / f"{name}.wav")[0][:, 0])
            for name in ("reference", "loud", "soft")
        }
        assert level["reference"] == pytest.approx(-30.0, abs=0.01)
        assert level["loud"] - level["reference"] == pytest.approx(6.02, abs=0.05)
        assert level["soft"] - level["reference"] < -12.0


def test_a_peak_of_any_condition_limits_the_gain(folders):
    sound, _ = soundfile.read(folders / "loud" / "a.flac")
    sound[1000] = 0.99
    soundfile.write(folders / "loud" / "a.flac", sound, RATE)
    export(folders, chosen=("a", "d"), loudness=-18.0)
    limited, free = json.loads((folders / "test" / "plan.json").read_text())["items"].values()
    assert limited["gain_db"] == pytest.approx(-1.0 - 20.0 * np.log10(0.99), abs=1e-3)
    assert limited["loudness_lufs"] < -18.1 and "leave no more room" in limited["notes"][-1]
    assert free["loudness_lufs"] == pytest.approx(-18.0) and not free["notes"][:-1]


def test_anchors_are_not_moved_against_their_reference(folders):
    export(folders, chosen=("d",))
    root = folders / "test" / "configs" / "listening-test" / "01-d"
    reference, anchor = (soundfile.read(root / f"{name}.wav")[0][:, 0] for name in ("reference", "anchor35"))
    products = np.fft.irfft(np.fft.rfft(anchor) * np.conj(np.fft.rfft(reference)))
    assert np.argmax(products) == 0


def test_the_draw_depends_on_the_seed_alone_and_practice_is_another_item(folders):
    def names(out, seed):
        export(folders, out=out, items=1, seed=seed)
        plan = json.loads((folders / out / "plan.json").read_text())
        return [item["name"] for item in plan["items"].values()], plan["training"]["name"]

    draws = {seed: names(f"out{seed}", seed) for seed in (0, 1, 2)}
    assert names("again", 0) == draws[0]
    assert len({items[0] for items, _ in draws.values()}) > 1
    assert all(practice not in items for items, practice in draws.values())


def test_the_yaml_is_in_the_form_that_webmushras_reader_takes(folders):
    title = 'Geräusche & "Codecs": <b> 100 %'
    plan = export(folders, title=title)
    text = plan.config.read_text(encoding="utf-8")
    assert "\n-\n  - random\n" in text and "- - " not in text
    for line in text.splitlines():
        assert re.match(r"^ *(-|(- )?[A-Za-z][\w.-]*:( .+)?|- random)$", line), line
    config = yaml.safe_load(text)
    assert config["testname"] == title and config["testId"] == "ger-usche-codecs-b-100"
    assert "&lt;b&gt;" in config["pages"][0]["name"]


def test_silent_references_are_skipped_when_drawn_and_refused_when_chosen(folders):
    soundfile.write(folders / "ref" / "a.wav", np.zeros(RATE), RATE)
    notes = []
    assert export(folders, progress=notes.append).pages == 2
    assert any(note.startswith("a: not used: silent") for note in notes)
    assert any("also the page to practise on" in note for note in notes)
    with pytest.raises(AudioFileError, match="a.wav: silent"):
        export(folders, "other", chosen=("a",))
    with pytest.raises(ValueError, match="2 usable items for 3 pages"):
        export(folders, "other", items=3)
    assert not (folders / "other").exists()


def test_a_silent_or_short_system_is_kept_and_said(folders):
    soundfile.write(folders / "loud" / "a.flac", np.zeros(RATE), RATE)
    notes = []
    export(folders, chosen=("a",), progress=notes.append)
    assert "a: loud: silent (its peak is below -60 dBFS)" in notes
    assert "a: loud: 3.00 s shorter than its reference, filled with silence" in notes


def remove(path):
    def change(folders):
        (folders / path).unlink()

    return change


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (remove("soft/b/c.wav"), {}, "system soft: 1 of 3 references have no file of the same name, first 'b/c'"),
        (lambda f: soundfile.write(f / "soft" / "d.flac", noise(0, 1.0), RATE), {}, "has the same name"),
        (lambda f: (f / "soft" / "d.wav").write_bytes(b"no sound"), {"chosen": ("d",)}, "d.wav"),
        (
            lambda f: soundfile.write(f / "soft" / "d.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT"),
            {"chosen": ("d",)},
            "d.wav: 48000 of 48000 samples are NaN",
        ),
        (None, {"chosen": ("bc",)}, "no reference is called 'bc': did you mean 'b/c'?"),
        (None, {"chosen": ("a", "a")}, "given twice"),
        (None, {"items": 31}, "31 items: choose 1 to 30"),
        (None, {"title": "  !"}, "--title"),
        (None, {"loudness": 3.0}, "--loudness 3"),
        (None, {"systems": {}}, "no system"),
        (None, {"systems": {"reference": "loud"}}, "--system 'reference'"),
        (None, {"systems": {"anchor35": "loud"}}, "--system 'anchor35'"),
        (None, {"systems": {"a&b": "loud"}}, "--system 'a&b'"),
        (None, {"systems": {f"s{i}": "loud" for i in range(11)}}, "13 conditions with the hidden reference"),
        (None, {"out": "ref"}, "is not an empty folder"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(folders, change, options, message):
    if change:
        change(folders)
    if options.get("systems"):
        options = {**options, "systems": {name: folders / path for name, path in options["systems"].items()}}
    with pytest.raises(ValueError, match=re.escape(message)):
        export(folders, **options)
    assert not (folders / "test").exists()


def test_check_finds_what_was_changed_afterwards(folders):
    plan = export(folders)
    assert check_test(folders / "test") == plan
    text = plan.config.read_text()

    def refused(change, message):
        plan.config.write_text(change(text))
        with pytest.raises(ValueError, match=message):
            check_test(folders / "test")
        plan.config.write_text(text)

    refused(lambda t: t.replace("showConditionNames: false", "showConditionNames: true", 1), "tell the listeners")
    refused(lambda t: t.replace("type: volume", "type: loudness"), "unknown type 'loudness'")
    refused(lambda t: t.replace("showResults: false", "showResults: true"), "show the names")
    refused(lambda t: t.replace("  defaultVolume: 0.5\n", ""), r"missing keys \['defaultVolume'\]")
    refused(lambda t: t.replace("reference: configs", "reference: ../configs"), "no file")
    refused(lambda t: "a: &a [x, x]\nb: &b [*a, *a]\n", "aliases")
    refused(lambda t: "[" * 500_000, "not YAML")
    refused(lambda t: "!!python/object/apply:os.system [echo]\n", "not YAML")
    sound = folders / "test" / "configs" / "listening-test" / "training" / "loud.wav"
    soundfile.write(sound, np.zeros((100, 2)), RATE, subtype="PCM_24")
    with pytest.raises(ValueError, match="page training: loud is .* webMUSHRA needs them equal"):
        check_test(folders / "test")


def test_every_page_type_that_is_written_is_known():
    assert set(PAGE_KEYS) == {"generic", "consent", "volume", "mushra", "finish"}
    with pytest.raises(ValueError, match="is no page"):
        flat_pages(["shuffle"])
