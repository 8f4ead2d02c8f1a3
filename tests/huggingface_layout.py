"""Names and shapes of Hugging Face's `ClapModel` and `BertModel`, seeded weights in them, and folders as they are downloaded.

Written from the descriptions of the layouts alone, so that importer and test share nothing but the format.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from woosh_flow_layout import seeded

CONFIG = {
    "model_type": "clap",
    "projection_dim": 8,
    "audio_config": {
        "patch_embeds_hidden_size": 4, "depths": [2, 1], "num_attention_heads": [1, 2], "spec_size": 64, "num_mel_bins": 32,
        "hidden_act": "gelu", "enable_fusion": False,
    },
    "text_config": {
        "vocab_size": 300, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16,
        "max_position_embeddings": 20,
    },
}  # fmt: skip
PREPROCESSOR = {
    "feature_extractor_type": "ClapFeatureExtractor", "feature_size": 32, "sampling_rate": 48_000, "nb_max_samples": 48_000,
    "hop_length": 480, "fft_window_size": 1024, "frequency_min": 50, "frequency_max": 14_000, "truncation": "rand_trunc",
    "padding": "repeatpad", "top_db": None,
}  # fmt: skip


def encoder_shapes(
    root: str, vocabulary: int, width: int, layers: int, hidden: int, positions: int, types: int
) -> dict:
    """Name -> shape of a RoBERTa or BERT whose names begin with `root`."""
    shapes = {f"{root}embeddings.{name}_embeddings.weight": (rows, width)
              for name, rows in (("word", vocabulary), ("position", positions), ("token_type", types))}  # fmt: skip
    norms, dense = [f"{root}embeddings.LayerNorm"], {f"{root}pooler.dense": (width, width)}
    for i in range(layers):
        layer = f"{root}encoder.layer.{i}"
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
        dense |= {f"{layer}.attention.self.{name}": (width, width) for name in ("query", "key", "value")}
        dense |= {f"{layer}.attention.output.dense": (width, width), f"{layer}.intermediate.dense": (hidden, width)}
        dense[f"{layer}.output.dense"] = (width, hidden)
    return shapes | leaves(norms, width) | linears(dense)


def leaves(norms: list[str], width: int) -> dict:
    return {f"{name}.{leaf}": (width,) for name in norms for leaf in ("weight", "bias")}


def linears(shapes: dict) -> dict:
    return {f"{name}.weight": s for name, s in shapes.items()} | {f"{name}.bias": s[:1] for name, s in shapes.items()}


def clap_state(seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of the `ClapModel` that CONFIG describes, buffers included."""
    shapes = encoder_shapes("text_model.", 300, 8, 2, 16, 20, 1)
    root, width, bands = "audio_model.audio_encoder", 4, 32
    shapes |= leaves([f"{root}.batch_norm"], bands)
    shapes |= {f"{root}.batch_norm.running_mean": (bands,), f"{root}.batch_norm.running_var": (bands,)}
    shapes |= {f"{root}.patch_embed.proj.weight": (width, 1, 4, 4), f"{root}.patch_embed.proj.bias": (width,)}
    shapes |= leaves([f"{root}.patch_embed.norm"], width) | leaves([f"{root}.norm"], 2 * width)
    for s, (depth, heads) in enumerate(((2, 1), (1, 2))):
        c = width << s
        for b in range(depth):
            block = f"{root}.layers.{s}.blocks.{b}"
            shapes |= leaves([f"{block}.layernorm_before", f"{block}.layernorm_after"], c)
            shapes |= linears({f"{block}.attention.self.{name}": (c, c) for name in ("query", "key", "value")})
            shapes |= linears({f"{block}.attention.output.dense": (c, c), f"{block}.intermediate.dense": (4 * c, c)})
            shapes |= linears({f"{block}.output.dense": (c, 4 * c)})
            shapes[f"{block}.attention.self.relative_position_bias_table"] = (225, heads)
    merge = f"{root}.layers.0.downsample"
    shapes |= leaves([f"{merge}.norm"], 4 * width) | {f"{merge}.reduction.weight": (2 * width, 4 * width)}
    for side in ("audio", "text"):
        shapes |= linears({f"{side}_projection.linear{i}": (8, 8) for i in (1, 2)})
    state = seeded(shapes, seed)
    state[f"{root}.batch_norm.running_var"] = 1.0 + state[f"{root}.batch_norm.running_var"] ** 2
    state |= {"logit_scale_a": np.float32(2.6), "logit_scale_t": np.float32(2.6)}
    state[f"{root}.batch_norm.num_batches_tracked"] = np.asarray(7)
    state["text_model.embeddings.position_ids"] = np.arange(20)[None]
    return state


def write_folder(folder: Path, state: dict, config: dict, **texts: object) -> Path:
    """A downloaded folder; `texts` are further files by stem, JSON if they are no strings."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: np.asarray(array) for name, array in state.items()}, str(folder / "model.safetensors"))
    for name, content in {"config": config, **texts}.items():
        suffix = "txt" if name == "merges" else "json"
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{name}.{suffix}").write_text(text, encoding="utf-8")
    return folder
