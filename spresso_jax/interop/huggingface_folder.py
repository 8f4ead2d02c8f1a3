"""The files that every downloaded Hugging Face folder of a text model has: its weights and its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from spresso_jax.clap.tokenizer import Tokenizer, read_bpe
from spresso_jax.interop.foreign_tensors import read_text

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


def weights_of(folder: Path) -> Path:
    """The weights file of a Hugging Face folder.

    Raises:
      ValueError: if there is none, or they are split over several files.
    """
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
        if (folder / f"{name}.index.json").is_file():
            raise ValueError(f"{folder}: its weights are split over several files: save them as one {WEIGHT_FILES[0]}")
    raise ValueError(f"{folder} holds neither {' nor '.join(WEIGHT_FILES)}: download the whole model folder")


def tokenizer_of(folder: Path, vocabulary: int) -> Tokenizer | None:
    """The tokenizer of a Hugging Face folder, None if it has none.

    Raises:
      ValueError: naming the file, if it cannot be read, or knows more tokens than the text tower.
    """
    file = folder / "tokenizer.json"
    if file.is_file():
        try:
            found = Tokenizer.from_json(read_text(file))
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
    elif (folder / "vocab.json").is_file() or (folder / "merges.txt").is_file():
        file = folder / "vocab.json"
        found = read_bpe(file, folder / "merges.txt")
    else:
        return None
    if found.vocabulary > vocabulary:
        raise ValueError(f"{file} has {found.vocabulary} tokens, the text tower knows {vocabulary}: another tokenizer")
    return found


def dtypes_of(tensors: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Names of the floating data types among the tensors, sorted."""
    return tuple(sorted({str(array.dtype) for array in tensors.values() if array.dtype.kind not in "iub"}))
