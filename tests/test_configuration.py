"""Experiment files: presets, overrides, locks and suggestions; and the paper's values, each once."""

import json

import pytest

from spresso_jax.bitrate import PAPER_OPERATING_POINTS, bitrate_kbps, compression_ratio
from spresso_jax.configuration import ConfigError, flat_keys, load_config, rates, to_plain

STAGES = ("audio_ae", "clap", "text_to_audio", "diffusion_ae", "quantizer", "decoder_finetune")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("size", ["paper", "small", "nano", "tiny"])
def test_every_preset_loads_and_survives_a_round_trip_through_json(stage, size, tmp_path):
    config = load_config(f"{stage}:{size}")
    assert config.stage == stage and config.loop.steps > 0
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_plain(config)))
    again = load_config(str(path))
    assert to_plain(again) == json.loads(json.dumps(to_plain(config)))


def test_a_saved_config_that_lacks_a_key_names_it(tmp_path):
    config = to_plain(load_config("audio_ae:tiny"))
    del config["data"]["validation_seconds"]
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="lacks data.validation_seconds, which stage audio_ae reads"):
        load_config(str(path))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lop.steps=1", "did you mean 'loop.steps'"),
        ("steps=1", "did you mean 'loop.steps'"),
        ("model.dim=wide", "model.dim takes a int"),
        ("loop.steps", "write key=value"),
    ],
)
def test_a_wrong_override_fails_with_a_suggestion(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config("audio_ae:tiny", [override])


def test_overrides_are_typed_and_the_config_stays_locked():
    config = load_config("audio_ae:tiny", ["loop.steps=7", "optimizer.learning_rate=1", "data.weights=(1.0,2.0)"])
    for spelling in ("true", "True"):
        assert load_config("audio_ae:tiny", [f"model.remat={spelling}"]).model.remat is True
    assert config.loop.steps == 7 and config.optimizer.learning_rate == 1.0 and tuple(config.data.weights) == (1.0, 2.0)
    with pytest.raises(AttributeError):
        config.new_key = 1


def test_an_unknown_experiment_or_preset_is_named():
    with pytest.raises(ConfigError, match="did you mean 'audio_ae'"):
        load_config("audio_a")
    with pytest.raises(ConfigError, match="unknown preset part 'huge'"):
        load_config("audio_ae:huge")
    with pytest.raises(ConfigError, match="choose one of 25hz"):
        load_config("diffusion_ae:7hz")


def test_the_paper_presets_hold_the_papers_values():
    audio_ae, dit = load_config("audio_ae"), load_config("text_to_audio")
    assert audio_ae.model.latent_channels == 128 and audio_ae.data.batch_size == 72
    assert (dit.model.joint_blocks, dit.model.audio_blocks, dit.data.batch_size) == (6, 6, 32)
    assert dit.optimizer.learning_rate == 1e-4
    step_1 = load_config("diffusion_ae:1hz")
    assert step_1.text_dropout == 0.8 and step_1.rate.encoder_depth == 12
    assert load_config("decoder_finetune").keep_continuous == 0.1
    assert (
        load_config("quantizer:1hz").model.codewords == 4096 and load_config("quantizer:11hz").model.codewords == 1024
    )
    assert load_config("quantizer").data.batch_size == 8000


def test_magnitude_preserving_presets_change_the_style_and_the_optimiser_alone():
    paper = to_plain(load_config("text_to_audio:paper"))
    mp = to_plain(load_config("text_to_audio:mp"))
    assert mp["model"].pop("block_style") == "mp" and paper["model"].pop("block_style") == "adaln"
    settings = mp.pop("optimizer")
    assert (settings["learning_rate"], settings["decay_steps"], settings["weight_decay"]) == (1e-2, 70_000, 0.0)
    assert {name for name in settings if settings[name] != paper["optimizer"][name]} == {
        "learning_rate", "decay_steps", "weight_decay"
    }  # fmt: skip
    del paper["optimizer"]
    assert mp == paper
    small = load_config("text_to_audio:small-mp")
    assert (small.model.width, small.optimizer.schedule, small.optimizer.decay_steps) == (192, "inverse_sqrt", 210)


def test_the_rates_table_gives_the_papers_bitrates():
    for row in rates.RATES.values():
        assert max(row["decode_codebooks"]) <= row["train_codebooks"]
        assert row["finetune_codebooks"] * row["codebook_bits"] in (96, 100)
    assert [point.kbps for point in PAPER_OPERATING_POINTS] == pytest.approx([1.32, 0.3, 0.096])
    assert compression_ratio(64, 11) == pytest.approx(68, abs=0.5) and compression_ratio(64, 1) == 750
    with pytest.raises(ValueError, match="codebooks >= 1"):
        bitrate_kbps(0, 1024, 1)


def test_flat_keys_are_dotted():
    assert "optimizer.learning_rate" in flat_keys(load_config("clap"))


@pytest.mark.parametrize(("experiment", "sized"), [("text_to_audio", "model"), ("diffusion_ae", "encoder")])
def test_the_base_presets_are_the_papers_at_another_width(experiment, sized):
    base, paper = (to_plain(load_config(f"{experiment}:{size}")) for size in ("base", "paper"))
    assert (base[sized].pop("width"), base[sized].pop("heads")) == (768, 12)
    assert (paper[sized].pop("width"), paper[sized].pop("heads")) == (1024, 8)
    assert base == paper
