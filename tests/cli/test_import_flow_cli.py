"""`spresso import woosh-flow`: three published folders become one model folder that step 1 starts from."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner
from woosh_flow_layout import TINY, TINY_ROTARY, flow_shapes, seeded, text_shapes
from woosh_layout import woosh_state

from spresso_jax.checkpoints.trees import flatten
from spresso_jax.checkpoints.weights import ModelFolderError, Network, load_model, save_model
from spresso_jax.clap.tokenizer import Tokenizer, train_tokenizer
from spresso_jax.cli.main import app
from spresso_jax.cli.upstream_data import latent_cache
from spresso_jax.codec.networks import build, check_parameters, parameter_shapes, prepared
from spresso_jax.configuration import load_config
from spresso_jax.evaluate.denoiser import clap_embedding
from spresso_jax.extract.latents import LatentExtractor
from spresso_jax.stages import registry

runner = CliRunner()
FLOW = flow_shapes(**{**TINY, "channels": 128})
TEXT = text_shapes(vocabulary=400, width=10, positions=12, layers=3, hidden=14, shared=6)
AUTOENCODER = dict(dim=12, hidden=20, encoder_blocks=1, decoder_blocks=1, channels=128)
CAPTIONS = ["rain on a tin roof", "a dog barks twice"]


def run(*words):
    return runner.invoke(app, ["import", "woosh-flow", *(str(word) for word in words)])


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The published folders side by side, and the tokenizer's files."""
    folder = tmp_path_factory.mktemp("checkpoints")
    rotary = "".join(f"  {key}: {value}\n" for key, value in TINY_ROTARY.items())
    for name, state, config in (
        ("Woosh-AE", woosh_state(**AUTOENCODER), "z_dim: 128\n"),
        ("TextConditionerA", seeded(TEXT, 1), "lhs_index: -2\nsentence_config: {max_sentence_tokens: 5}\n"),
        ("Woosh-Flow", seeded(FLOW), f"pred_type: v_pred\ndit:\n{rotary}"),
    ):
        (folder / name).mkdir()
        save_file(state, str(folder / name / "weights.safetensors"))
        (folder / name / "config.yaml").write_text(config)
    bpe = json.loads(train_tokenizer(CAPTIONS, 300).to_json())["model"]
    (folder / "vocab.json").write_text(json.dumps(bpe["vocab"]), encoding="utf-8")
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in bpe["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def imported(source):
    out = source / "model"
    tokenizer = "--vocab", source / "vocab.json", "--merges", source / "merges.txt"
    result = run(source / "Woosh-Flow", "--text-heads", 2, *tokenizer, "--out", out)
    assert result.exit_code == 0, result.output
    assert "precond flow" in result.output and "CC-BY-NC-4.0" in result.output and "warning" not in result.output
    return load_model(out)


@pytest.fixture(scope="module")
def speechless(source):
    out = source / "speechless"
    result = run(source / "Woosh-Flow", "--text-heads", 2, "--out", out)
    assert result.exit_code == 0, result.output
    assert "captions cannot be read" in result.stderr
    return load_model(out)


def test_the_model_folder_holds_what_step_1_needs(imported, source):
    assert set(registry.entry("diffusion_ae").needs) == set(imported.networks)
    for name, network in imported.networks.items():
        check_parameters(name, build(name, network), network.params)
    assert imported.networks["dit"].config["precond"] == "flow"
    statistics, state = imported.facts["latent_statistics"], woosh_state(**AUTOENCODER)
    np.testing.assert_array_equal(np.float32(statistics["mean"]), state["z_mean"])
    np.testing.assert_array_equal(np.float32(statistics["std"]), state["z_std"])
    assert statistics["sigma_data"] == 0.5
    assert [step["imported"] for step in imported.facts["provenance"]] == ["Woosh-AE", "TextConditionerA", "Woosh-Flow"]
    tokenizer = Tokenizer.from_json(imported.facts["tokenizer"])
    assert tokenizer.decode(tokenizer.encode("Rain on a dog", 40)[0]) == "Rain on a dog"

    # The pads of the first two positions are the empty caption's states; the others are the file's.
    clap = imported.networks["clap"]
    ids = np.array([[0, 2, 1, 1, 1]], np.int32)
    states, _ = build("clap", clap).apply({"params": clap.params}, ids, ids != 1)
    pad = imported.networks["dit"].params["caption"]["pad"]
    np.testing.assert_allclose(pad[:2], states[0, :2], atol=1e-6)
    np.testing.assert_array_equal(pad[2:], seeded(FLOW)["dit.preprocessing.description_pad"][2:])


@pytest.mark.slow
def test_step_1_builds_on_it_with_the_third_stream_and_the_codec_folds_its_adapters(imported):
    stage = registry.build("diffusion_ae", load_config("diffusion_ae:tiny-11hz"), imported)
    networks = jax.eval_shape(stage.init, jax.random.key(0))
    assert networks["dit"]["joint"]["down"] and networks["dit"]["single"]["fc1"]["lora_a"].shape == (2, 16, 4)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), imported.networks["audio_ae"].params)
    batch, key = dict(stage.batch_spec), jax.random.key(0)
    metrics = jax.eval_shape(stage.validate, {**networks, "audio_ae": shapes}, batch, key)
    assert "other_embedding_gain" in metrics
    config = {**imported.networks["dit"].config, "third_stream": True, "lora_rank": 4}
    shapes = parameter_shapes("dit", build("dit", Network(config, {}, "DiT")))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    module, params = prepared("dit", Network(config, zeros, "DiT"), on_cpu=True)
    assert module.precond == "flow" and module.lora_rank == 0 and "lora_a" not in params["single"]["fc1"]


def test_it_can_be_trained_on_as_text_to_audio_in_its_own_form(imported):
    sizes = ["width=16", "heads=2", "mlp_ratio=1.5", "joint_blocks=2", "audio_blocks=2", "noise_features=8"]
    config = load_config("text_to_audio:paper", ["pooled_text=False", *(f"model.{size}" for size in sizes)])
    stage = registry.build("text_to_audio", config, imported)
    fresh = flatten(jax.eval_shape(stage.init, jax.random.key(0)))
    known = flatten({"dit": imported.networks["dit"].params})
    assert {path: leaf.shape for path, leaf in fresh.items()} == {path: leaf.shape for path, leaf in known.items()}
    assert stage.finish({"dit": {}}, lambda: iter(())).networks["dit"][0]["precond"] == "flow"


def test_the_command_line_of_step_1_takes_it(imported, tmp_path):
    result = runner.invoke(
        app, ["train", "diffusion_ae", "--config", "diffusion_ae:tiny", "--upstream", str(imported.folder), "--data",
              str(tmp_path), "--run", str(tmp_path / "r"), "--dry-run"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output


def test_captions_are_cached_as_states_and_without_a_tokenizer_as_null_captions(imported, speechless):
    clip = {"id": "a", "captions": CAPTIONS, "audio": np.full((9600, 1), 0.1, np.float32), "valid": 9600}
    ((_, heard),) = LatentExtractor.of_model(imported).records([clip])
    assert heard["text"].shape == (2, 5, 10) and heard["pooled_text"].shape == (2, 10)
    assert heard["text_mask"].all() and (heard["text"][0] != heard["text"][1]).any()
    ((meta, silent),) = LatentExtractor.of_model(speechless).records([clip])
    assert silent["text"].shape == (1, 5, 10) and not silent["text_mask"].any() and meta["caption"] == [""]
    np.testing.assert_array_equal(silent["latent"], heard["latent"])


def test_a_cache_without_captions_is_not_taken_for_one_with_them(imported, speechless, tmp_path, monkeypatch):
    monkeypatch.setattr("spresso_jax.cli.upstream_data.read_meta", lambda path: {})
    monkeypatch.setattr("spresso_jax.cli.upstream_data.splits_of", lambda path: ("train",))
    monkeypatch.setattr("spresso_jax.cli.upstream_data.write_latents", lambda path, target, upstream: target)
    with_captions, without = (latent_cache(tmp_path / "shards", tmp_path, model) for model in (imported, speechless))
    assert with_captions != without


def test_a_text_tower_alone_compares_no_sounds(imported):
    with pytest.raises(ModelFolderError, match="TextConditioner, which reads captions only"):
        clap_embedding(imported)


def test_an_imported_autoencoder_serves_and_any_other_is_refused(source, imported, tmp_path):
    network, facts = imported.networks["audio_ae"], imported.facts
    own = [{"imported": "Woosh-AE", "sha256": "0"}]
    for name, provenance in (("own", own), ("trained", [*own, {"stage": "audio_ae"}]), ("other", [{"stage": "audio_ae"}])):
        facts = {"latent_statistics": facts["latent_statistics"], "provenance": provenance}
        save_model(tmp_path / name, {"audio_ae": network}, facts)
    words = source / "Woosh-Flow", "--text-heads", 2, "--out", tmp_path / "o", "--autoencoder"
    for name in ("trained", "other"):
        result = run(*words, tmp_path / name)
        assert result.exit_code == 2 and "not what import woosh-ae wrote" in result.stderr
    assert run(*words, tmp_path / "own").exit_code == 0
    assert load_model(tmp_path / "o").facts["provenance"][0] == own[0]


def test_mistakes_end_in_one_sentence(source, tmp_path):
    path, out = source / "Woosh-Flow", ("--out", tmp_path / "o")
    narrow = tmp_path / "narrow"
    narrow.mkdir()
    save_file(seeded(text_shapes(400, 8, 90, 2, 14, 6)), str(narrow / "weights.safetensors"))
    for words, message in (
        ((tmp_path / "missing", *out), "no such folder"),
        ((path, *out), "16 heads do not divide the width 10"),
        ((path, *out, "--vocab", source / "vocab.json"), "--vocab and --merges belong together"),
        ((path, *out, "--text-conditioner", tmp_path / "none"), "unpack the asset TextConditionerA"),
        ((path, *out, "--text-conditioner", narrow, "--text-heads", 2), "77 states of width 8, the DiT was trained with 5"),
        ((path, *out, "--text-heads", 2, "--autoencoder", narrow), "lacks 'autoencoder.encoder.backbone.embed.weight'"),
        ((path, *out, "--text-heads", 2, "--vocab", path, "--merges", path), "no such file"),
    ):
        result = run(*words)
        assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1, result.output
        assert not (tmp_path / "o").exists()
