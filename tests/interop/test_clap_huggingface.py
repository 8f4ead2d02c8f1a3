"""Importing CLAP weights: every tensor is used or named, and LAION's own layout leads to the same network."""

import jax
import numpy as np
import pytest

from spresso_jax.clap.model import Clap
from spresso_jax.interop.clap_huggingface import (
    clap_config,
    clap_params,
    laion_to_huggingface,
    read_clap_folder,
)

CONFIG = {
    "projection_dim": 8,
    "audio_config": {
        "patch_embeds_hidden_size": 4,
        "depths": [2, 1],
        "num_attention_heads": [1, 2],
        "spec_size": 64,
        "num_mel_bins": 32,
    },
    "text_config": {
        "vocab_size": 12,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 9,
    },
}
PREPROCESSOR = {
    "nb_max_samples": 48_000,
    "hop_length": 480,
    "fft_window_size": 1024,
    "frequency_min": 50,
    "frequency_max": 14_000,
    "truncation": "rand_trunc",
    "padding": "repeatpad",
}


def linear(rng, name, inputs, outputs, bias=True):
    tensors = {f"{name}.weight": rng.standard_normal((outputs, inputs)).astype(np.float32)}
    return tensors | ({f"{name}.bias": rng.standard_normal(outputs).astype(np.float32)} if bias else {})


def norm(rng, name, width):
    return {f"{name}.{part}": rng.standard_normal(width).astype(np.float32) for part in ("weight", "bias")}


def laion_state():
    """A small state dict with LAION's original names."""
    rng = np.random.default_rng(0)
    state = {"logit_scale_a": np.float32(2.0), "logit_scale_t": np.float32(3.0)}
    for name in ("word", "position", "token_type"):
        rows = {"word": 12, "position": 9, "token_type": 1}[name]
        state[f"text_branch.embeddings.{name}_embeddings.weight"] = rng.standard_normal((rows, 8)).astype(np.float32)
    state |= norm(rng, "text_branch.embeddings.LayerNorm", 8)
    layer = "text_branch.encoder.layer.0"
    for part in ("query", "key", "value"):
        state |= linear(rng, f"{layer}.attention.self.{part}", 8, 8)
    state |= linear(rng, f"{layer}.attention.output.dense", 8, 8) | norm(rng, f"{layer}.attention.output.LayerNorm", 8)
    state |= linear(rng, f"{layer}.intermediate.dense", 8, 16) | linear(rng, f"{layer}.output.dense", 16, 8)
    state |= norm(rng, f"{layer}.output.LayerNorm", 8) | linear(rng, "text_branch.pooler.dense", 8, 8)
    state |= {"text_branch.embeddings.position_ids": np.arange(9)[None]}
    state |= norm(rng, "audio_branch.bn0", 32)
    state |= {"audio_branch.bn0.running_mean": np.full(32, -30.0), "audio_branch.bn0.running_var": np.full(32, 400.0)}
    state |= {"audio_branch.bn0.num_batches_tracked": np.int64(7)}
    state["audio_branch.patch_embed.proj.weight"] = rng.standard_normal((4, 1, 4, 4)).astype(np.float32)
    state["audio_branch.patch_embed.proj.bias"] = rng.standard_normal(4).astype(np.float32)
    state |= norm(rng, "audio_branch.patch_embed.norm", 4) | norm(rng, "audio_branch.norm", 8)
    for s, b, width, heads in ((0, 0, 4, 1), (0, 1, 4, 1), (1, 0, 8, 2)):
        block = f"audio_branch.layers.{s}.blocks.{b}"
        state |= norm(rng, f"{block}.norm1", width) | norm(rng, f"{block}.norm2", width)
        state |= linear(rng, f"{block}.attn.qkv", width, 3 * width) | linear(rng, f"{block}.attn.proj", width, width)
        state |= linear(rng, f"{block}.mlp.fc1", width, 4 * width) | linear(rng, f"{block}.mlp.fc2", 4 * width, width)
        state[f"{block}.attn.relative_position_bias_table"] = rng.standard_normal((225, heads)).astype(np.float32)
        state[f"{block}.attn.relative_position_index"] = np.zeros((64, 64), np.int64)
    state["audio_branch.layers.0.blocks.1.attn_mask"] = np.zeros((4, 64, 64), np.float32)
    merge = "audio_branch.layers.0.downsample"
    state |= norm(rng, f"{merge}.norm", 16) | linear(rng, f"{merge}.reduction", 16, 8, bias=False)
    for side, width in (("audio", 8), ("text", 8)):
        state |= linear(rng, f"{side}_projection.0", width, 8) | linear(rng, f"{side}_projection.2", 8, 8)
        state |= linear(rng, f"{side}_transform.sequential.0", 8, 8)
    state |= linear(rng, "audio_branch.head", 8, 5) | linear(rng, "audio_branch.tscam_conv", 8, 5)
    state["audio_branch.logmel_extractor.melW"] = np.zeros((513, 64), np.float32)
    return {f"module.{name}": tensor for name, tensor in state.items()}


def test_laion_names_give_exactly_the_parameters_of_our_network():
    config = clap_config(CONFIG, PREPROCESSOR)
    state = laion_to_huggingface(laion_state())
    params = clap_params(state, config)
    module = Clap(**config)
    tokens = np.array([[0, 5, 2]], np.int32)
    made = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 48_000, 1), np.float32), tokens, tokens != 1)
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, made["params"])
    qkv = laion_state()["module.audio_branch.layers.1.blocks.0.attn.qkv.weight"]
    np.testing.assert_array_equal(params["audio_tower"]["stage_1_block_0"]["qkv"]["kernel"], qkv.T)


def test_missing_and_unexplained_tensors_are_named():
    config = clap_config(CONFIG)
    state = laion_to_huggingface(laion_state())
    with pytest.raises(ValueError, match="text_model.extra.weight"):
        clap_params(state | {"text_model.extra.weight": np.zeros(2)}, config)
    del state["text_projection.linear2.bias"]
    with pytest.raises(ValueError, match="text_projection.linear2.bias"):
        clap_params(state, config)


def test_preprocessor_file_decides_the_front_end():
    fields = clap_config(CONFIG, PREPROCESSOR | {"truncation": "fusion", "frequency_min": 0})
    assert (fields["filter_bank"], fields["f_min"], fields["samples"]) == ("htk", 0.0, 48_000)
    assert Clap(**clap_config(CONFIG)).front_end().frames == 1001


def test_models_that_cannot_be_imported_are_refused(tmp_path):
    with pytest.raises(ValueError, match="enable_fusion"):
        clap_config(CONFIG | {"audio_config": {"enable_fusion": True}})
    with pytest.raises(ValueError, match="patch_stride"):
        clap_config(CONFIG | {"audio_config": {"patch_stride": [2, 2]}})
    with pytest.raises(ValueError, match="lacks"):
        clap_config({"model_type": "bert"})
    with pytest.raises(ValueError, match="config.json is missing"):
        read_clap_folder(tmp_path)
