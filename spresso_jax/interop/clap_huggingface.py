"""LAION-CLAP weights, in Hugging Face's layout or LAION's own, turned into a `Clap` network.

Only the unfused (rand_trunc) models are read: with fusion the embedding of a short clip depends on chance, so it is no
basis for a metric. The weights keep their licence.

Source: `ClapModel` of transformers 5.23 (key names and shapes), `laion_clap` (the original names).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from spresso_jax.interop.foreign_tensors import read_tensors

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
            raise ValueError(f"the CLAP weights lack the tensor {name!r}: is this an unfused LAION-CLAP model?")
        self.unread.discard(name)
        return np.asarray(self.tensors[name])

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
      ValueError: if it is no CLAP config, for a fusion model, or a patch embedding with overlap.
    """
    missing = {"audio_config", "text_config"} - set(config)
    if missing:
        raise ValueError(f"config.json lacks {sorted(missing)}: is this a CLAP model?")
    audio, text = AUDIO_DEFAULTS | dict(config["audio_config"]), TEXT_DEFAULTS | dict(config["text_config"])
    if audio["enable_fusion"]:
        raise ValueError("enable_fusion is true: only unfused CLAP models can be imported, e.g. clap-htsat-unfused")
    patch = audio["patch_size"]
    if list(audio["patch_stride"]) != [patch, patch]:
        raise ValueError(f"patch_stride {audio['patch_stride']} differs from patch_size {patch}: not supported")
    fields = {
        "audio_width": audio["patch_embeds_hidden_size"],
        "audio_depths": list(audio["depths"]),
        "audio_heads": list(audio["num_attention_heads"]),
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
        "samples": 480_000,
        "hop": 480,
    }
    if preprocessor is not None:
        fields |= {
            "samples": preprocessor["nb_max_samples"],
            "hop": preprocessor["hop_length"],
            "n_fft": preprocessor["fft_window_size"],
            "f_min": float(preprocessor["frequency_min"]),
            "f_max": float(preprocessor["frequency_max"]),
            "filter_bank": "htk" if preprocessor["truncation"] == "fusion" else "slaney",
            "short_clips": preprocessor["padding"],
        }
    return fields


def clap_params(tensors: Mapping[str, np.ndarray], config: Mapping) -> dict:
    """Parameters of `Clap(**config)` from a Hugging Face state dict.

    Args:
      tensors: all tensors of the model by name, with torch's layouts.
      config: fields of `Clap`, from `clap_config`.

    Raises:
      ValueError: if a tensor is missing or one is left over, with its name.
    """
    state = StateDict(tensors)
    params = {
        "audio_tower": _audio_tower(state, config),
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


def _audio_tower(state: StateDict, config: Mapping) -> dict:
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
    """Parameters of a `ClapTextTower` from RoBERTa tensors whose names begin with `root`."""
    tower = {
        "word_embedding": state.table(f"{root}.embeddings.word_embeddings"),
        "position_embedding": state.table(f"{root}.embeddings.position_embeddings"),
        "type_embedding": state.table(f"{root}.embeddings.token_type_embeddings"),
        "embedding_norm": state.norm(f"{root}.embeddings.LayerNorm"),
    }
    if pooler:
        tower["pooler"] = state.dense(f"{root}.pooler.dense")
    for i in range(layers):
        layer = f"{root}.encoder.layer.{i}"
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


def read_clap_folder(folder: str | Path) -> tuple[dict, dict, str | None]:
    """Config, parameters and tokenizer JSON of a downloaded Hugging Face CLAP folder.

    Reads `config.json`, `model.safetensors` and, if present, `preprocessor_config.json` and `tokenizer.json`.

    Raises:
      ValueError: if a file is missing or damaged, or the model is not an unfused CLAP.
    """
    folder = Path(folder).expanduser()
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} is missing: download the whole model folder, with safetensors weights")
    preprocessor = folder / "preprocessor_config.json"
    tokenizer = folder / "tokenizer.json"
    config = clap_config(
        json.loads((folder / "config.json").read_text(encoding="utf-8")),
        json.loads(preprocessor.read_text(encoding="utf-8")) if preprocessor.is_file() else None,
    )
    params = clap_params(read_tensors(folder / "model.safetensors"), config)
    return config, params, tokenizer.read_text(encoding="utf-8") if tokenizer.is_file() else None
