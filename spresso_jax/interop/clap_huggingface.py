"""LAION-CLAP weights, in Hugging Face's layout or LAION's own, turned into a `Clap` network.

Only the unfused (rand_trunc) models are read: with fusion the embedding of a short clip depends on chance, so it is no
basis for a metric. The weights keep their licence.

Source: `ClapModel` of transformers 5.23 (key names and shapes), `laion_clap` (the original names).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spresso_jax.checkpoints.trees import check_shapes
from spresso_jax.clap.front_ends import SHORT_CLIPS
from spresso_jax.clap.model import Clap
from spresso_jax.clap.text_tower import FIRST_POSITION
from spresso_jax.clap.tokenizer import Tokenizer
from spresso_jax.interop.foreign_tensors import read_json, read_tensors
from spresso_jax.interop.huggingface_folder import dtypes_of, tokenizer_of, weights_of
from spresso_jax.shapes import SAMPLE_RATE

# Buffers that hold no knowledge: index tables that our modules compute, and a counter of training batches.
IGNORED = ("position_ids", "token_type_ids", "relative_position_index", "num_batches_tracked")
LAION_IGNORED = (
    "audio_branch.spectrogram_extractor.",
    "audio_branch.logmel_extractor.",
    "audio_branch.tscam_conv.",
    "audio_branch.head.",
    "audio_transform.",
    "text_transform.",
    "attn_mask",
)
LAION_NAMES = (
    (r"^text_branch\.", "text_model."),
    (r"^audio_branch\.", "audio_model.audio_encoder."),
    (r"\.bn0\.", ".batch_norm."),
    (r"\.attn\.relative_position", ".attention.self.relative_position"),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"_projection\.0\.", "_projection.linear1."),
    (r"_projection\.2\.", "_projection.linear2."),
)
# Values of fields that a config.json leaves out because they are the library's defaults.
AUDIO_DEFAULTS = {
    "patch_embeds_hidden_size": 96,
    "depths": [2, 2, 6, 2],
    "num_attention_heads": [4, 8, 16, 32],
    "spec_size": 256,
    "num_mel_bins": 64,
    "window_size": 8,
    "patch_size": 4,
    "patch_stride": [4, 4],
    "mlp_ratio": 4.0,
    "enable_fusion": False,
}
# What a config may say and still mean the towers that are built here.
SUPPORTED = {
    "audio_config": {
        "hidden_act": "gelu", "projection_hidden_act": "relu", "layer_norm_eps": 1e-5, "qkv_bias": True,
        "patch_embed_input_channels": 1, "enable_patch_layer_norm": True,
    },
    "text_config": {
        "hidden_act": "gelu", "projection_hidden_act": "relu", "position_embedding_type": "absolute", "type_vocab_size": 1,
        "pad_token_id": 1,
    },
}  # fmt: skip
# Of the public unfused checkpoints. "fusion" names a filter bank here: for clips up to the model's length it is nothing else.
PREPROCESSOR_DEFAULTS = {
    "sampling_rate": SAMPLE_RATE, "hop_length": 480, "fft_window_size": 1024, "max_length_s": 10, "frequency_min": 50,
    "frequency_max": 14_000, "truncation": "rand_trunc", "padding": "repeatpad",
}  # fmt: skip
TRUNCATIONS = {"rand_trunc": "slaney", "fusion": "htk"}
MOST_STAGES = 8
LARGEST_SIZE = 10_000_000
# Captions that LAION's models were trained on have at most so many tokens.
TEXT_TOKENS = 77
PREPROCESSOR_FILES = (("preprocessor_config.json", None), ("processor_config.json", "feature_extractor"))
FUSION_PARTS = ("fusion_model", "mel_conv2d")
TEXT_DEFAULTS = {
    "vocab_size": 50265,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 514,
    "layer_norm_eps": 1e-12,
}


class StateDict:
    """Foreign tensors by name that remembers which were read, so that nothing is dropped in silence."""

    def __init__(self, tensors: Mapping[str, np.ndarray]):
        self.tensors = tensors
        self.unread = {name for name in tensors if not name.endswith(IGNORED)}

    def take(self, name: str) -> np.ndarray:
        """The tensor `name`; ValueError if the file lacks it."""
        if name not in self.tensors:
            raise ValueError(f"the weights lack the tensor {name!r}: are they of the model that config.json describes?")
        self.unread.discard(name)
        return np.asarray(self.tensors[name]).astype(np.float32, copy=False)

    def dense(self, *names: str, bias: bool = True) -> dict:
        """One dense layer from linear layers `[out, in]`, side by side when there are several."""
        leaves = {"kernel": np.concatenate([self.take(f"{name}.weight") for name in names]).T}
        if bias:
            leaves["bias"] = np.concatenate([self.take(f"{name}.bias") for name in names])
        return leaves

    def norm(self, name: str) -> dict:
        """A normalisation's scale and bias."""
        return {"scale": self.take(f"{name}.weight"), "bias": self.take(f"{name}.bias")}

    def table(self, name: str) -> dict:
        """An embedding table."""
        return {"embedding": self.take(f"{name}.weight")}


def clap_config(config: Mapping, preprocessor: Mapping | None = None) -> dict:
    """Fields of `Clap` from a Hugging Face `config.json` and, if there is one, `preprocessor_config.json`.

    Without a preprocessor file the values of the public unfused checkpoints are taken (not the library's defaults,
    which belong to the fusion models).

    Raises:
      ValueError: if it is no CLAP config, for a fusion model, for a size that is no positive whole number, or for a setting
        that our towers or front end do not have.
    """
    missing = {"audio_config", "text_config"} - set(config)
    if missing:
        raise ValueError(f"config.json lacks {sorted(missing)}: is this a CLAP model?")
    for part, supported in SUPPORTED.items():
        _require(f"config.json: {part}", config[part], supported)
    audio, text = AUDIO_DEFAULTS | dict(config["audio_config"]), TEXT_DEFAULTS | dict(config["text_config"])
    if audio["enable_fusion"]:
        raise ValueError("enable_fusion is true: only unfused CLAP models can be imported, e.g. clap-htsat-unfused")
    patch = audio["patch_size"]
    if patch_sides(audio["patch_stride"]) != patch_sides(patch):
        raise ValueError(f"patch_stride {audio['patch_stride']} differs from patch_size {patch}: not supported")
    depths, heads = audio["depths"], audio["num_attention_heads"]
    if not isinstance(depths, list) or not isinstance(heads, list) or not 0 < len(depths) == len(heads) <= MOST_STAGES:
        raise ValueError(f"depths {depths} and num_attention_heads {heads} must be lists of one whole number a stage")
    fields = {
        "audio_width": audio["patch_embeds_hidden_size"],
        "audio_depths": list(depths),
        "audio_heads": list(heads),
        "image_size": audio["spec_size"],
        "mel_bins": audio["num_mel_bins"],
        "window": audio["window_size"],
        "patch": patch,
        "audio_mlp_ratio": audio["mlp_ratio"],
        "input_norm": "batch",
        "vocabulary": text["vocab_size"],
        "text_width": text["hidden_size"],
        "text_layers": text["num_hidden_layers"],
        "text_heads": text["num_attention_heads"],
        "text_mlp_width": text["intermediate_size"],
        "text_positions": text["max_position_embeddings"],
        "text_norm_eps": text["layer_norm_eps"],
        "channels": config.get("projection_dim", 512),
    }
    fields |= _front_end(preprocessor or {}, audio["num_mel_bins"])
    for name, value in fields.items():
        for number in value if isinstance(value, list) else [value]:
            if not isinstance(number, (str, float)) and not (type(number) is int and 0 < number <= LARGEST_SIZE):
                raise ValueError(f"config: {name} must be a positive whole number up to {LARGEST_SIZE}, got {number!r}")
    return fields


def patch_sides(value: int | list) -> list:
    """Height and width of a patch, which a config gives as one number or two."""
    return list(value) if isinstance(value, list) else [value, value]


def _front_end(preprocessor: Mapping, bands: int) -> dict:
    """Fields of the front end; every setting is honoured or refused, but those that the library itself ignores."""
    known = PREPROCESSOR_DEFAULTS | dict(preprocessor)
    _require(
        "preprocessor_config.json", known, {"sampling_rate": SAMPLE_RATE, "feature_size": bands, "padding_value": 0.0}
    )
    if known["truncation"] not in TRUNCATIONS or known["padding"] not in SHORT_CLIPS:
        raise ValueError(
            f"preprocessor_config.json: truncation {known['truncation']!r} must be one of {', '.join(TRUNCATIONS)}, padding "
            f"{known['padding']!r} one of {', '.join(SHORT_CLIPS)}"
        )
    try:
        low, high = float(known["frequency_min"]), float(known["frequency_max"])
        samples = known.get("nb_max_samples") or int(known["max_length_s"] * known["sampling_rate"])
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"preprocessor_config.json: a length or frequency is no number ({error})") from error
    if not 0.0 <= low < high <= SAMPLE_RATE / 2:
        raise ValueError(f"preprocessor_config.json: frequencies {low:g} to {high:g} Hz lie not within 0 to 24000 Hz")
    return {
        "samples": samples,
        "hop": known["hop_length"],
        "n_fft": known["fft_window_size"],
        "f_min": low,
        "f_max": high,
        "filter_bank": TRUNCATIONS[known["truncation"]],
        "short_clips": known["padding"],
    }


def _require(where: str, found: Any, supported: Mapping) -> None:
    """Absent fields pass: they have the library's defaults, which are these."""
    if not isinstance(found, Mapping):
        raise ValueError(f"{where} must hold names and values, got {type(found).__name__}")
    for name, value in supported.items():
        if found.get(name) is not None and found[name] != value:
            raise ValueError(f"{where}: {name} is {found[name]!r}, supported is {value!r}")


def clap_params(tensors: Mapping[str, np.ndarray], config: Mapping) -> dict:
    """Parameters of `Clap(**config)` from a Hugging Face state dict.

    Args:
      tensors: all tensors of the model by name, with torch's layouts.
      config: fields of `Clap`, from `clap_config`.

    Raises:
      ValueError: if a tensor is missing or one is left over, with its name, or the weights are of a fusion model.
    """
    if any(part in name for name in tensors for part in FUSION_PARTS):
        raise ValueError(
            "the weights are of a fusion model: only unfused CLAP models can be imported, e.g. clap-htsat-unfused"
        )
    state = StateDict(tensors)
    params = {
        "audio_tower": audio_tower(state, config),
        "text_tower": text_tower(state, config["text_layers"]),
        "audio_log_scale": state.take("logit_scale_a"),
        "text_log_scale": state.take("logit_scale_t"),
    }
    for side in ("audio", "text"):
        name = f"{side}_projection"
        params[name] = {"fc1": state.dense(f"{name}.linear1"), "fc2": state.dense(f"{name}.linear2")}
    if state.unread:
        raise ValueError(f"the CLAP weights hold tensors that the config does not explain: {sorted(state.unread)[:5]}")
    return params


def audio_tower(state: StateDict, config: Mapping) -> dict:
    """Parameters of a `ClapAudioTower` from tensors by Hugging Face's names."""
    root = "audio_model.audio_encoder"
    batch_norm = f"{root}.batch_norm"
    tower = {
        "input_norm": state.norm(batch_norm)
        | {"mean": state.take(f"{batch_norm}.running_mean"), "var": state.take(f"{batch_norm}.running_var")},
        "patch_embedding": {
            "kernel": state.take(f"{root}.patch_embed.proj.weight").transpose(2, 3, 1, 0),
            "bias": state.take(f"{root}.patch_embed.proj.bias"),
        },
        "patch_norm": state.norm(f"{root}.patch_embed.norm"),
        "norm": state.norm(f"{root}.norm"),
    }
    depths = config["audio_depths"]
    for s, depth in enumerate(depths):
        stage = f"{root}.layers.{s}"
        for b in range(depth):
            block = f"{stage}.blocks.{b}"
            attention = f"{block}.attention.self"
            tower[f"stage_{s}_block_{b}"] = {
                "attention_norm": state.norm(f"{block}.layernorm_before"),
                "qkv": state.dense(f"{attention}.query", f"{attention}.key", f"{attention}.value"),
                "relative_bias": state.take(f"{attention}.relative_position_bias_table"),
                "out": state.dense(f"{block}.attention.output.dense"),
                "mlp_norm": state.norm(f"{block}.layernorm_after"),
                "fc1": state.dense(f"{block}.intermediate.dense"),
                "fc2": state.dense(f"{block}.output.dense"),
            }
        if s + 1 < len(depths):
            tower[f"stage_{s}_merge"] = {
                "norm": state.norm(f"{stage}.downsample.norm"),
                "reduce": state.dense(f"{stage}.downsample.reduction", bias=False),
            }
    return tower


def text_tower(state: StateDict, layers: int, root: str = "text_model", pooler: bool = True) -> dict:
    """Parameters of a `ClapTextTower` from RoBERTa or BERT tensors whose names begin with `root` ("" for bare names)."""
    root = f"{root}." if root else ""
    tower = {
        "word_embedding": state.table(f"{root}embeddings.word_embeddings"),
        "position_embedding": state.table(f"{root}embeddings.position_embeddings"),
        "type_embedding": state.table(f"{root}embeddings.token_type_embeddings"),
        "embedding_norm": state.norm(f"{root}embeddings.LayerNorm"),
    }
    if pooler:
        tower["pooler"] = state.dense(f"{root}pooler.dense")
    for i in range(layers):
        layer = f"{root}encoder.layer.{i}"
        attention = f"{layer}.attention.self"
        tower[f"block_{i}"] = {
            "qkv": state.dense(f"{attention}.query", f"{attention}.key", f"{attention}.value"),
            "out": state.dense(f"{layer}.attention.output.dense"),
            "attention_norm": state.norm(f"{layer}.attention.output.LayerNorm"),
            "fc1": state.dense(f"{layer}.intermediate.dense"),
            "fc2": state.dense(f"{layer}.output.dense"),
            "mlp_norm": state.norm(f"{layer}.output.LayerNorm"),
        }
    return tower


def laion_to_huggingface(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames the state dict of an original LAION checkpoint to Hugging Face's names, for `clap_params`.

    The stacked qkv matrix is split, the optional `module.` prefix removed; the tagging head, the torch front end and
    the MLP transforms of the training loss are left out, because no embedding needs them.
    """
    renamed = {}
    for original, tensor in tensors.items():
        name = original.removeprefix("module.")
        if name.startswith(LAION_IGNORED) or name.endswith((".attn_mask", *IGNORED)):
            continue
        for pattern, replacement in LAION_NAMES:
            name = re.sub(pattern, replacement, name)
        stacked = re.fullmatch(r"(.*)\.attn\.qkv\.(weight|bias)", name)
        if stacked is None:
            renamed[name] = tensor
            continue
        for part, values in zip(("query", "key", "value"), np.split(np.asarray(tensor), 3), strict=True):
            renamed[f"{stacked[1]}.attention.self.{part}.{stacked[2]}"] = values
    return renamed


@dataclass(frozen=True)
class HuggingFaceClap:
    """An imported LAION-CLAP.

    Attributes:
      config: fields of `Clap`.
      params: its parameters, float32.
      tokenizer: of its captions, or None if the folder has none.
      text_tokens: N, length that captions are padded or cut to.
      dtypes: data types found in the file.
      weights_file: where it was read.
    """

    config: dict[str, Any]
    params: dict[str, Any]
    tokenizer: Tokenizer | None
    text_tokens: int
    dtypes: tuple[str, ...]
    weights_file: Path


def read_clap_folder(folder: str | Path) -> HuggingFaceClap:
    """LAION-CLAP of a downloaded Hugging Face folder.

    Reads `config.json`, `model.safetensors` or `pytorch_model.bin` (without running anything in it), and, if present,
    `preprocessor_config.json` (or `processor_config.json`) and `tokenizer.json` (or `vocab.json` and `merges.txt`).

    Raises:
      ValueError: naming the file, if one is missing or damaged, the model is not an unfused CLAP, the weights have other
        sizes than the config, or the tokenizer knows more tokens than the text tower.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: no such folder; download e.g. laion/clap-htsat-unfused from Hugging Face and give its folder"
        )
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise ValueError(f"{config_file} is missing: download the whole model folder")
    weights_file = weights_of(folder)
    config = clap_config(read_json(config_file), _preprocessor(folder))
    tensors = read_tensors(weights_file)
    try:
        params = clap_params(tensors, config)
    except ValueError as error:
        raise ValueError(f"{weights_file}: {error}") from error
    module = Clap(**config)
    tokens = jnp.zeros((1, 4), jnp.int32)
    try:
        audio = jax.ShapeDtypeStruct((1, config["samples"], 1), jnp.float32)
        made = jax.eval_shape(module.init, jax.random.key(0), audio, tokens, tokens == 0)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{config_file}: its sizes do not fit together: {error}") from error
    check_shapes(params, made["params"], str(weights_file))
    tokenizer = tokenizer_of(folder, config["vocabulary"])
    length = min(TEXT_TOKENS, config["text_positions"] - FIRST_POSITION)
    return HuggingFaceClap(config, params, tokenizer, length, dtypes_of(tensors), weights_file)


def _preprocessor(folder: Path) -> Mapping | None:
    for name, part in PREPROCESSOR_FILES:
        if (folder / name).is_file():
            found = read_json(folder / name)
            return found if part is None else found.get(part)
    return None
