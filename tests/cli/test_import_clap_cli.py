"""`spresso import clap`, `woosh-clap` and `sentence-encoder`: published folders become models that the DiT stages start from."""

import json

import jax
import numpy as np
import pytest
from huggingface_layout import CONFIG, PREPROCESSOR, clap_state, encoder_shapes, linears, write_folder
from safetensors.numpy import load_file, save_file
from tiny_model import build_tiny_model
from torch_file_writer import write_arrays
from typer.testing import CliRunner
from woosh_flow_layout import seeded, text_shapes

from spresso_jax.checkpoints.weights import load_model
from spresso_jax.clap.tokenizer import Tokenizer, train_tokenizer
from spresso_jax.cli.main import app
from spresso_jax.codec.networks import prepared
from spresso_jax.configuration import load_config
from spresso_jax.evaluate.denoiser import clap_embedding
from spresso_jax.extract.latents import LatentExtractor
from spresso_jax.stages import registry

CAPTIONS = ["rain on a tin roof", "a dog barks twice"]
BERT = {
    "model_type": "bert", "vocab_size": 40, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 16, "max_position_embeddings": 12, "layer_norm_eps": 1e-12, "hidden_act": "gelu",
}  # fmt: skip
runner = CliRunner()


def run(*words):
    return runner.invoke(app, ["import", *(str(word) for word in words)])


def bpe_files():
    bpe = json.loads(train_tokenizer(CAPTIONS, 300).to_json())["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in bpe["merges"]]
    return bpe["vocab"], "\n".join(["#version: 0.2", *merges]) + "\n"


@pytest.fixture(scope="module")
def audio_ae(tmp_path_factory):
    return build_tiny_model(tmp_path_factory.mktemp("before") / "tiny", facts={"licence": "CC0"})


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory):
    vocab, merges = bpe_files()
    folder = tmp_path_factory.mktemp("huggingface") / "clap"
    return write_folder(folder, clap_state(), CONFIG, preprocessor_config=PREPROCESSOR, vocab=vocab, merges=merges)


@pytest.fixture(scope="module")
def imported(downloaded, audio_ae, tmp_path_factory):
    out = tmp_path_factory.mktemp("model") / "clap"
    result = run("clap", downloaded, "--out", out, "--upstream", audio_ae)
    assert result.exit_code == 0 and "warning" not in result.output, result.output
    return load_model(out)


def test_laion_clap_starts_the_dit_stages_and_is_a_space_of_evaluation(imported):
    assert set(imported.networks) == set(registry.entry("text_to_audio").needs) == {"audio_ae", "clap"}
    assert imported.facts["provenance"][-1]["imported"] == "LAION-CLAP" and imported.facts["text_tokens"] == 18
    assert imported.facts["licence"].startswith("CC0; text encoder:") and imported.facts["latent_statistics"]["std"]
    module, params = prepared("clap", imported.networks["clap"], on_cpu=True)
    assert module.samples == 48_000 and float(params["audio_log_scale"]) == pytest.approx(2.6)
    config = load_config("text_to_audio:tiny")
    dit = jax.eval_shape(registry.build("text_to_audio", config, imported).init, jax.random.key(0))["dit"]
    assert dit["caption"]["pad"].shape[0] == 18
    clip = {"id": "a", "captions": CAPTIONS, "audio": np.full((9600, 1), 0.1, np.float32), "valid": 9600}
    ((_, arrays),) = LatentExtractor.of_model(imported).records([clip])
    assert arrays["text"].shape == (2, 18, 8) and arrays["pooled_text"].shape == (2, 8)
    assert np.linalg.norm(clap_embedding(imported)(clip["audio"][:, 0])) == pytest.approx(1.0, abs=1e-5)


def test_pytorch_files_and_the_newer_preprocessor_file_give_the_same_model(imported, downloaded, tmp_path):
    folder = write_folder(tmp_path / "bin", {}, CONFIG, processor_config={"feature_extractor": PREPROCESSOR})
    (folder / "model.safetensors").unlink()
    floats = {name: array for name, array in clap_state().items() if np.asarray(array).dtype == np.float32}
    write_arrays(folder / "pytorch_model.bin", {name: np.asarray(array) for name, array in floats.items()})
    (folder / "tokenizer.json").write_text(train_tokenizer(CAPTIONS, 300).to_json(), encoding="utf-8")
    result = run("clap", folder, "--out", tmp_path / "model")
    assert result.exit_code == 0, result.output
    again = load_model(tmp_path / "model")
    assert again.facts["values"]["clap.safetensors"] == imported.facts["values"]["clap.safetensors"]
    assert again.networks["clap"].config == imported.networks["clap"].config


def broken(name, folder):
    """Applies one damage to a complete folder."""
    config, preprocessor = json.loads(json.dumps(CONFIG)), dict(PREPROCESSOR)
    state = clap_state()
    if name == "no weights":
        (folder / "model.safetensors").unlink()
        return
    if name == "shards":
        (folder / "model.safetensors").rename(folder / "model.safetensors.index.json")
        return
    if name == "cut short":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
        return
    if name == "no json":
        (folder / "config.json").write_text("{" * 100_000)
        return
    if name == "fusion":
        config["audio_config"]["enable_fusion"] = True
    if name == "hidden fusion":
        state["audio_model.audio_encoder.patch_embed.mel_conv2d.weight"] = np.zeros((4, 1, 4, 12), np.float32)
    if name == "width":
        config["text_config"]["hidden_size"] = 16
    if name == "endless":
        config["text_config"]["num_hidden_layers"] = 10**6
    if name == "negative":
        config["audio_config"]["spec_size"] = -64
    if name == "activation":
        config["text_config"]["hidden_act"] = "relu"
    if name == "rate":
        preprocessor["sampling_rate"] = 44_100
    if name == "padding":
        preprocessor["padding"] = "mirror"
    if name == "tokenizer":
        vocab = json.loads((folder / "vocab.json").read_text())
        vocab |= {f"extra{i}": len(vocab) + i for i in range(100)}
        (folder / "vocab.json").write_text(json.dumps(vocab))
    write_folder(folder, state, config, preprocessor_config=preprocessor)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("no weights", "neither model.safetensors nor pytorch_model.bin"),
        ("shards", "split over several files"),
        ("cut short", "not a valid safetensors file"),
        ("no json", "cannot be read as JSON"),
        ("fusion", "only unfused CLAP models"),
        ("hidden fusion", "only unfused CLAP models"),
        ("width", "has shape"),
        ("endless", "lack the tensor 'text_model.encoder.layer.2"),
        ("negative", "image_size must be a positive whole number"),
        ("activation", "hidden_act is 'relu'"),
        ("rate", "sampling_rate is 44100"),
        ("padding", "'mirror' one of repeatpad"),
        ("tokenizer", "tokens, the text tower knows 300: another tokenizer"),
    ],
)
def test_folders_that_do_not_fit_are_refused_by_name(damage, told, tmp_path):
    vocab, merges = bpe_files()
    folder = tmp_path / "clap"
    write_folder(folder, clap_state(), CONFIG, preprocessor_config=PREPROCESSOR, vocab=vocab, merges=merges)
    broken(damage, folder)
    result = run("clap", folder, "--out", tmp_path / "model")
    assert result.exit_code == 2 and not (tmp_path / "model").exists()
    assert told in " ".join(result.stderr.split()), result.stderr
    assert "Traceback" not in result.output


def test_without_a_tokenizer_or_an_autoencoder_it_is_said(tmp_path):
    folder = write_folder(tmp_path / "clap", clap_state(), CONFIG, preprocessor_config=PREPROCESSOR)
    result = run("clap", folder, "--out", tmp_path / "model")
    assert result.exit_code == 0 and "no tokenizer.json" in result.stderr, result.output
    result = run("clap", folder, "--out", tmp_path / "second", "--upstream", tmp_path / "model")
    assert result.exit_code == 2 and "has no trained audio_ae" in result.stderr


def woosh_state(width=12, layers=2, channels=6):
    """Both towers of Woosh-CLAP with made-up sizes."""
    root = "audio_frontend.model"
    shapes = {
        f"{root}.cls_token": (1, 1, width),
        f"{root}.dist_token": (1, 1, width),
        f"{root}.new_pos_embed": (1, 2, width),
    }
    shapes |= {f"{root}.freq_new_pos_embed": (1, width, 8, 1), f"{root}.time_new_pos_embed": (1, width, 1, 62)}
    shapes |= {f"{root}.patch_embed.proj.weight": (width, 1, 16, 16), f"{root}.patch_embed.proj.bias": (width,)}
    dense = {"audio_head.0": (channels, width), f"{root}.head.1": (5, width), f"{root}.head_dist": (5, width)}
    norms = [f"{root}.norm", f"{root}.head.0"]
    for i in range(layers):
        block = f"{root}.blocks.{i}"
        norms += [f"{block}.norm1", f"{block}.norm2"]
        dense |= {f"{block}.attn.qkv": (3 * width, width), f"{block}.attn.proj": (width, width)}
        dense |= {f"{block}.mlp.fc1": (4 * width, width), f"{block}.mlp.fc2": (width, 4 * width)}
    shapes |= linears(dense) | {f"{norm}.{leaf}": (width,) for norm in norms for leaf in ("weight", "bias")}
    text = text_shapes(vocabulary=400, width=8, positions=20, layers=3, hidden=16, shared=channels)
    return seeded(shapes, 1), seeded(text, 2)


def test_woosh_clap_serves_the_same_stages_and_incomplete_folders_are_named(audio_ae, tmp_path):
    folder, (audio, text) = tmp_path / "Woosh-CLAP", woosh_state()
    folder.mkdir()
    heads = "--audio-heads", 3, "--text-heads", 2
    (folder / "config.yaml").write_text(
        "audio: {name: passt_no, mask_attention: false}\nsentence: {max_sentence_tokens: 9}\n"
    )
    save_file(audio, str(folder / "weights_audio.safetensors"))
    result = run("woosh-clap", folder, *heads, "--out", tmp_path / "half")
    assert result.exit_code == 2 and "lacks weights_text.safetensors" in result.stderr
    save_file(text | {"sentence_frontend.extra": np.zeros(1, np.float32)}, str(folder / "weights_text.safetensors"))
    result = run("woosh-clap", folder, *heads, "--out", tmp_path / "half")
    assert result.exit_code == 2 and "1 unexpected: sentence_frontend.extra" in " ".join(result.stderr.split())
    save_file(text, str(folder / "weights_text.safetensors"))
    vocab, merges = bpe_files()
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text(merges)
    words = "--vocab", tmp_path / "vocab.json", "--merges", tmp_path / "merges.txt"
    result = run("woosh-clap", folder, *heads, *words, "--upstream", audio_ae, "--out", tmp_path / "model")
    assert result.exit_code == 0 and "CC-BY-NC-4.0" in result.output, result.output
    model = load_model(tmp_path / "model")
    assert model.networks["clap"].class_name == "PasstClap" and model.facts["text_tokens"] == 9
    clip = {"id": "a", "captions": CAPTIONS, "audio": np.full((9600, 1), 0.1, np.float32), "valid": 9600}
    ((_, arrays),) = LatentExtractor.of_model(model).records([clip])
    assert arrays["text"].shape == (2, 9, 8) and arrays["pooled_text"].shape == (2, 6)
    embed = clap_embedding(model)
    time = np.arange(240_000) / 48_000
    low, again, high = (embed(np.sin(2 * np.pi * pitch * time)) for pitch in (440.0, 440.0, 5000.0))
    assert low @ again == pytest.approx(1.0, abs=1e-5) and low @ high < 0.999
    (folder / "config.yaml").write_text("audio: {sample_rate: 44100}\n")
    result = run("woosh-clap", folder, *heads, "--out", tmp_path / "other")
    assert result.exit_code == 2 and "audio.sample_rate = 44100" in result.stderr


def bert_tokenizer():
    from tokenizers import Tokenizer as Engine
    from tokenizers import models, normalizers, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "rain", "on", "a", "tin", "roof", "dog", "bark", "##s", "twice"]
    engine = Engine(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    engine.normalizer, engine.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    engine.add_special_tokens(words[:4])
    # As published: it would add the special tokens a second time, and pad to a length of its own.
    engine.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    engine.enable_padding(length=9)
    return engine.to_str()


def test_a_sentence_encoder_stands_in_the_place_of_clap(audio_ae, tmp_path):
    state = seeded(encoder_shapes("", 40, 8, 2, 16, 12, 2), 3)
    folder = write_folder(tmp_path / "minilm", state, BERT, tokenizer=bert_tokenizer())
    result = run("sentence-encoder", folder, "--upstream", audio_ae, "--out", tmp_path / "model")
    assert result.exit_code == 0, result.output
    model = load_model(tmp_path / "model")
    tokenizer = Tokenizer.from_json(model.facts["tokenizer"])
    ids, mask = tokenizer.encode("A dog barks", 7)
    assert ids.tolist() == [2, 6, 9, 10, 11, 3, 0] and mask.tolist() == [True] * 6 + [False]
    module, params = prepared("clap", model.networks["clap"], on_cpu=True)
    states, pooled = module.apply({"params": params}, ids[None], mask[None], method="encode_text")
    mean = np.asarray(states)[0, :6].mean(axis=0)
    np.testing.assert_allclose(pooled[0], mean / np.linalg.norm(mean), atol=1e-6)
    # The first position is row 0 and its word the first row of the sum that the norm takes.
    rows = {"word": 2, "position": 0, "token_type": 0}
    first = sum(state[f"embeddings.{name}_embeddings.weight"][row] for name, row in rows.items())
    first = (first - first.mean()) / first.std()
    norm = params["text_tower"]["embedding_norm"]
    _, inside = module.apply(
        {"params": params},
        ids[None],
        mask[None],
        method="encode_text",
        capture_intermediates=True,
        mutable=["intermediates"],
    )
    embedded = inside["intermediates"]["text_tower"]["embedding_norm"]["__call__"][0]
    np.testing.assert_allclose(embedded[0, 0], first * norm["scale"] + norm["bias"], atol=1e-5)
    dit = jax.eval_shape(
        registry.build("text_to_audio", load_config("text_to_audio:tiny"), model).init, jax.random.key(0)
    )
    assert dit["dit"]["caption"]["pad"].shape[0] == model.facts["text_tokens"] == 12

    write_folder(folder, load_file(folder / "model.safetensors"), BERT | {"hidden_size": 12})
    result = run("sentence-encoder", folder, "--out", tmp_path / "other")
    assert result.exit_code == 2 and "has shape" in result.stderr
    write_folder(folder, load_file(folder / "model.safetensors"), BERT | {"model_type": "t5"})
    result = run("sentence-encoder", folder, "--out", tmp_path / "other")
    assert result.exit_code == 2 and "model_type is 't5'" in result.stderr
