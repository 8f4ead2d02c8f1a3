"""The public Woosh-CLAP turned into our `PasstClap`: PaSST and RoBERTa-large with one linear head each.

The weights are CC BY-NC 4.0. Its two files are read as one state dict, strictly. The numbers of heads are in no file; the
released ones are 12 (audio) and 16 (text).

Source: Woosh (MIT code, names and layouts of its release v1.0.0); reference woosh_import.md, section B.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spresso_jax.clap.passt import CHUNK_SAMPLES, MEL_BANDS, MLP_RATIO, TOWER_RATE
from spresso_jax.interop.clap_huggingface import StateDict, text_tower
from spresso_jax.interop.foreign_tensors import ForeignTensors, read_tensors, read_yaml
from spresso_jax.interop.woosh import WEIGHT_FILES
from spresso_jax.interop.woosh_text import HEADS, sentence_shapes

AUDIO_HEADS = 12
AUDIO, AUDIO_HEAD = "audio_frontend.model", "audio_head.0"
TEXT, TEXT_HEAD = "sentence_frontend", "sentence_head.0"
SPLIT_FILES = ("weights_audio", "weights_text")
SUFFIXES = (".safetensors", ".pt")
TEXT_TOKENS = 77
# What a config.yaml may say and still mean the network that is built here.
STATED = {
    "": {"normalize": True, "text_preprocessing": "no_op"},
    "audio": {
        "name": "passt_no",
        "sample_rate": TOWER_RATE,
        "segment_length": CHUNK_SAMPLES // TOWER_RATE,
        "aggregate": "mean",
        "type": "embedding",
        "adopt_n_layers": 0,
        "mask_attention": False,
    },
    "sentence": {"adopt_n_layers": 0, "pool_type": "eos"},
}


@dataclass(frozen=True)
class WooshClap:
    """An imported Woosh-CLAP.

    Attributes:
      config: fields of `PasstClap`.
      params: its parameters, float32.
      text_tokens: N, length that captions are padded or cut to.
      dtypes: data types found in the files.
      weights_files: where they were read; empty if they were given.
    """

    config: dict[str, Any]
    params: dict[str, Any]
    text_tokens: int
    dtypes: tuple[str, ...]
    weights_files: tuple[Path, ...] = ()


def woosh_clap_from_state(
    state: Mapping[str, np.ndarray],
    stated: Mapping[str, Any] | None = None,
    audio_heads: int = AUDIO_HEADS,
    text_heads: int = HEADS,
    source: str = "the Woosh-CLAP weights",
) -> WooshClap:
    """Both towers of a Woosh-CLAP state dict; every size but the heads is read off the shapes.

    Args:
      state: tensors by their published names, of both files together.
      stated: `config.yaml`, which must not describe another network, or None.
      audio_heads, text_heads: attention heads, which no file tells.
      source: what messages call the weights.

    Raises:
      ValueError: listing tensors that are missing, unexpected or of another shape; if the heads do not divide a width, or
        the config describes another network.
    """
    stated = _checked(stated or {}, source)
    tensors = ForeignTensors(state, source)
    width, _, patch, _ = tensors.shape(f"{AUDIO}.patch_embed.proj.weight", 4)
    time_positions = tensors.shape(f"{AUDIO}.time_new_pos_embed", 4)[3]
    vocabulary, text_width = tensors.shape(f"{TEXT}.embeddings.word_embeddings.weight", 2)
    positions, _ = tensors.shape(f"{TEXT}.embeddings.position_embeddings.weight", 2)
    hidden, _ = tensors.shape(f"{TEXT}.encoder.layer.0.intermediate.dense.weight", 2)
    layers, text_layers = tensors.count(f"{AUDIO}.blocks.", "block"), tensors.count(f"{TEXT}.encoder.layer.", "layer")
    channels, _ = tensors.shape(f"{AUDIO_HEAD}.weight", 2)
    for what, heads, across in (("audio", audio_heads, width), ("text", text_heads, text_width)):
        if heads < 1 or across % heads:
            raise ValueError(
                f"{source}: {heads} heads do not divide the width {across} of the {what} tower: give its own"
            )
    config = {
        "audio_width": width,
        "audio_layers": layers,
        "audio_heads": audio_heads,
        "patch": patch,
        "time_positions": time_positions,
        "head_major_merge": True,
        "vocabulary": vocabulary,
        "text_width": text_width,
        "text_layers": text_layers,
        "text_heads": text_heads,
        "text_mlp_width": hidden,
        "text_positions": positions,
        # The DiT of the same release reads the states before the last layer.
        "text_states_layer": -min(2, text_layers),
        "channels": channels,
    }
    classes = tensors.shape(f"{AUDIO}.head_dist.weight", 2)[0] if f"{AUDIO}.head_dist.weight" in tensors else None
    shapes = _audio_shapes(width, patch, time_positions, layers, channels, classes)
    text_shapes = sentence_shapes(vocabulary, text_width, positions, hidden, text_layers, channels)
    tensors.require(shapes | text_shapes)
    tensors.drop((f"{AUDIO}.head.", f"{AUDIO}.head_dist.", f"{TEXT}.pooler."))
    needed = StateDict({name: tensors.take(name) for name in (*shapes, *text_shapes) if name in tensors})
    tensors.finish()
    params = {
        "audio_tower": _audio_tower(needed, layers),
        "text_tower": text_tower(needed, text_layers, TEXT, pooler=False),
        "audio_projection": needed.dense(AUDIO_HEAD),
        "text_projection": needed.dense(TEXT_HEAD),
    }
    if needed.unread:
        raise ValueError(f"{source} holds tensors that nothing used: {', '.join(sorted(needed.unread))}")
    tokens = int(stated["sentence"].get("max_sentence_tokens") or TEXT_TOKENS)
    return WooshClap(config, params, min(tokens, positions - 2), tensors.dtypes)


def read_woosh_clap(folder: str | Path, audio_heads: int = AUDIO_HEADS, text_heads: int = HEADS) -> WooshClap:
    """CLAP of a downloaded and unpacked `Woosh-CLAP` folder; `config.yaml` is read if there is one.

    Raises:
      ValueError: if the folder or one of its files is missing or damaged, the two files hold the same tensor, or as in
        `woosh_clap_from_state`.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: no such folder; unpack the asset Woosh-CLAP of Woosh's release v1.0.0 and give its folder"
        )
    files = _weight_files(folder)
    state: dict[str, np.ndarray] = {}
    for file in files:
        found = read_tensors(file)
        twice = sorted(set(found) & set(state))
        if twice:
            raise ValueError(f"{file} holds {twice[0]!r}, which {files[0].name} holds as well: unpack the asset again")
        state |= found
    config = folder / "config.yaml"
    stated = read_yaml(config) if config.is_file() else None
    made = woosh_clap_from_state(state, stated, audio_heads, text_heads, str(folder))
    return dataclasses.replace(made, weights_files=files)


def _weight_files(folder: Path) -> tuple[Path, ...]:
    """The two published files, or one that holds both towers."""
    split = [
        next((folder / (stem + suffix) for suffix in SUFFIXES if (folder / (stem + suffix)).is_file()), None)
        for stem in SPLIT_FILES
    ]
    if all(split):
        return tuple(split)
    whole = [folder / name for name in WEIGHT_FILES if (folder / name).is_file()]
    if whole and not any(split):
        return (whole[0],)
    missing = [stem for stem, file in zip(SPLIT_FILES, split, strict=True) if file is None]
    raise ValueError(
        f"{folder} lacks {' and '.join(f'{stem}.safetensors' for stem in missing)}: Woosh-CLAP comes as "
        f"{' and '.join(f'{stem}.safetensors' for stem in SPLIT_FILES)}; unpack the whole asset"
    )


def _checked(stated: Mapping[str, Any], source: str) -> dict[str, Mapping[str, Any]]:
    """The parts of a config.yaml by name, after comparison with what is supported; absent fields pass."""
    parts = {name: stated if not name else stated.get(name) or {} for name in STATED}
    for part, known in STATED.items():
        if not isinstance(parts[part], Mapping):
            raise ValueError(f"{source}: {part} of config.yaml must hold names and values, got {parts[part]!r}")
        for name, value in known.items():
            found = parts[part].get(name)
            if found is not None and found != value:
                where = f"{part}.{name}" if part else name
                raise ValueError(f"{source}: config.yaml states {where} = {found!r}, supported is {value!r}")
    return parts


def _audio_tower(state: StateDict, layers: int) -> dict[str, Any]:
    tower = {
        "patch_embedding": {
            "kernel": state.take(f"{AUDIO}.patch_embed.proj.weight").transpose(2, 3, 1, 0),
            "bias": state.take(f"{AUDIO}.patch_embed.proj.bias"),
        },
        "start_tokens": np.concatenate([state.take(f"{AUDIO}.cls_token")[0], state.take(f"{AUDIO}.dist_token")[0]]),
        "start_positions": state.take(f"{AUDIO}.new_pos_embed")[0],
        "frequency_position": state.take(f"{AUDIO}.freq_new_pos_embed")[0, :, :, 0].T,
        "time_position": state.take(f"{AUDIO}.time_new_pos_embed")[0, :, 0].T,
        "norm": state.norm(f"{AUDIO}.norm"),
    }
    for i in range(layers):
        block = f"{AUDIO}.blocks.{i}"
        tower[f"block_{i}"] = {
            "attention_norm": state.norm(f"{block}.norm1"),
            "qkv": state.dense(f"{block}.attn.qkv"),
            "out": state.dense(f"{block}.attn.proj"),
            "mlp_norm": state.norm(f"{block}.norm2"),
            "fc1": state.dense(f"{block}.mlp.fc1"),
            "fc2": state.dense(f"{block}.mlp.fc2"),
        }
    return tower


def _audio_shapes(
    width: int, patch: int, time_positions: int, layers: int, channels: int, classes: int | None
) -> dict[str, tuple[int, ...]]:
    """Every name of the published audio file; the classifier heads are there or not."""
    shapes = {
        f"{AUDIO}.cls_token": (1, 1, width),
        f"{AUDIO}.dist_token": (1, 1, width),
        f"{AUDIO}.new_pos_embed": (1, 2, width),
        f"{AUDIO}.freq_new_pos_embed": (1, width, MEL_BANDS // patch, 1),
        f"{AUDIO}.time_new_pos_embed": (1, width, 1, time_positions),
        f"{AUDIO}.patch_embed.proj.weight": (width, 1, patch, patch),
        f"{AUDIO}.patch_embed.proj.bias": (width,),
    }
    norms, dense = [f"{AUDIO}.norm"], {AUDIO_HEAD: (channels, width)}
    if classes is not None:
        norms.append(f"{AUDIO}.head.0")
        dense |= {f"{AUDIO}.head.1": (classes, width), f"{AUDIO}.head_dist": (classes, width)}
    for i in range(layers):
        block = f"{AUDIO}.blocks.{i}"
        norms += [f"{block}.norm1", f"{block}.norm2"]
        dense |= {
            f"{block}.attn.qkv": (3 * width, width),
            f"{block}.attn.proj": (width, width),
            f"{block}.mlp.fc1": (MLP_RATIO * width, width),
            f"{block}.mlp.fc2": (width, MLP_RATIO * width),
        }
    for name, shape in dense.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in norms:
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return shapes
