"""The text tower of the public Woosh-Flow, TextConditionerA, turned into our `TextConditioner`.

The DiT reads the states before the last layer, so the last layer, the pooler and the head of the shared space are
checked and left out. The number of heads is in no file; that of roberta-large is 16.

Source: Woosh (MIT code, names and layouts of its release v1.0.0); RoBERTa as in transformers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spresso_jax.clap.text_conditioner import TextConditioner
from spresso_jax.clap.tokenizer import empty_caption
from spresso_jax.interop.clap_huggingface import StateDict, text_tower
from spresso_jax.interop.foreign_tensors import ForeignTensors, read_tensors
from spresso_jax.interop.woosh import published_files

HEADS = 16
ROOT, HEAD = "sentence_frontend", "sentence_head.0"
STATED = {
    "last_hidden_state": True,
    "use_shared_space": False,
    "lhs_index": -2,
    "remove_special_tokens": False,
    "text_preprocessing": "no_op",
}


@dataclass(frozen=True)
class WooshTextConditioner:
    """An imported TextConditionerA.

    Attributes:
      config: fields of `TextConditioner`.
      params: its parameters, float32.
      text_tokens: N, length that captions are padded or cut to.
      dtypes: data types found in the file.
      weights_file: where it was read, or None.
    """

    config: dict[str, Any]
    params: dict[str, Any]
    text_tokens: int
    dtypes: tuple[str, ...]
    weights_file: Path | None = None

    def null_caption(self) -> tuple[np.ndarray, np.ndarray]:
        """States [N, D] and mask [N] of the empty caption, which is what Woosh's DiT takes for no caption."""
        tokens, mask = empty_caption(self.text_tokens)
        module = TextConditioner(**self.config)
        states, _ = jax.jit(module.apply)({"params": self.params}, tokens[None], mask[None])
        return np.asarray(states[0]), mask


def conditioner_from_state(
    state: Mapping[str, np.ndarray],
    heads: int = HEADS,
    stated: Mapping[str, Any] | None = None,
    source: str = "the TextConditionerA weights",
) -> WooshTextConditioner:
    """Text tower of a TextConditionerA state dict; every size but the heads is read off the shapes.

    Args:
      state: tensors by their published names.
      heads: attention heads, which no file tells.
      stated: `config.yaml`, which must not describe another use of the tower, or None.
      source: what messages call the weights.

    Raises:
      ValueError: listing tensors that are missing, unexpected or of another shape; if the heads do not divide the width,
        there are fewer than two layers, or the config describes another use.
    """
    for name, value in STATED.items():
        if (stated or {}).get(name) is not None and stated[name] != value:
            raise ValueError(f"{source}: config.yaml states {name} = {stated[name]!r}, supported is {value!r}")
    tensors = ForeignTensors(state, source)
    vocabulary, width = tensors.shape(f"{ROOT}.embeddings.word_embeddings.weight", 2)
    positions, _ = tensors.shape(f"{ROOT}.embeddings.position_embeddings.weight", 2)
    layers = tensors.count(f"{ROOT}.encoder.layer.", "layer")
    hidden, _ = tensors.shape(f"{ROOT}.encoder.layer.0.intermediate.dense.weight", 2)
    shared, _ = tensors.shape(f"{HEAD}.weight", 2)
    if layers < 2:
        raise ValueError(f"{source}: the tower has {layers} layer, the states before the last one need at least 2")
    if heads < 1 or width % heads:
        raise ValueError(
            f"{source}: {heads} heads do not divide the width {width}: give the tower's own number of heads"
        )
    tokens = int(((stated or {}).get("sentence_config") or {}).get("max_sentence_tokens", 77))
    config = {
        "vocabulary": vocabulary,
        "text_width": width,
        "text_layers": layers - 1,
        "text_heads": heads,
        "text_mlp_width": hidden,
        "text_positions": positions,
        "channels": width,
    }
    expected = sentence_shapes(vocabulary, width, positions, hidden, layers, shared)
    tensors.require(expected)
    tensors.drop((f"{ROOT}.encoder.layer.{layers - 1}.", f"{ROOT}.pooler.", f"{HEAD}."))
    needed = StateDict({name: tensors.take(name) for name in expected if name in tensors})
    params = {"text_tower": text_tower(needed, layers - 1, ROOT, pooler=False)}
    tensors.finish()
    if needed.unread:
        raise ValueError(f"{source} holds tensors that nothing used: {', '.join(sorted(needed.unread))}")
    return WooshTextConditioner(config, params, tokens, tensors.dtypes)


def read_woosh_text_conditioner(folder: str | Path, heads: int = HEADS) -> WooshTextConditioner:
    """Text tower of a downloaded and unpacked `TextConditionerA` folder; `config.yaml` is read if there is one.

    Raises:
      ValueError: if the folder or its weights are missing or damaged, or as in `conditioner_from_state`.
    """
    file, stated = published_files(folder, "TextConditionerA")
    made = conditioner_from_state(read_tensors(file), heads, stated, str(file))
    return dataclasses.replace(made, weights_file=file)


def sentence_shapes(
    vocabulary: int, width: int, positions: int, hidden: int, layers: int, shared: int
) -> dict[str, tuple[int, ...]]:
    """Every name of the published file."""
    shapes = {
        f"{ROOT}.embeddings.word_embeddings.weight": (vocabulary, width),
        f"{ROOT}.embeddings.position_embeddings.weight": (positions, width),
        f"{ROOT}.embeddings.token_type_embeddings.weight": (1, width),
    }
    norms, dense = [f"{ROOT}.embeddings.LayerNorm"], {f"{ROOT}.pooler.dense": (width, width), HEAD: (shared, width)}
    for i in range(layers):
        layer = f"{ROOT}.encoder.layer.{i}"
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
        dense |= {f"{layer}.attention.self.{name}": (width, width) for name in ("query", "key", "value")}
        dense |= {
            f"{layer}.attention.output.dense": (width, width),
            f"{layer}.intermediate.dense": (hidden, width),
            f"{layer}.output.dense": (width, hidden),
        }
    for name, shape in dense.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in norms:
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return shapes
