"""Byte-level BPE tokenizer of captions: trained from them, kept as one JSON string, never at a loss for a character.

The JSON is the file format of the `tokenizers` package, so the `tokenizer.json` of roberta-base or any other byte-level
BPE with the same three special tokens loads as well, and so does that of a BERT. The package is imported on first use only.

Source: RoBERTa (arXiv:1907.11692) and BERT (arXiv:1810.04805) for the special tokens and their ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>")
START, PAD, END = range(3)
BERT_TOKENS = ("[CLS]", "[PAD]", "[SEP]")
BYTES = 256
SMALLEST_VOCABULARY = len(SPECIAL_TOKENS) + BYTES


@dataclass(frozen=True)
class Tokenizer:
    """Turns captions into token ids; equal JSON means equal tokens. Picklable, so loader processes can carry it.

    Attributes:
      json: the tokenizer as the `tokenizers` package serialises it.
    """

    json: str

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """Reads a tokenizer from its JSON string.

        Raises:
          ValueError: if the string is no tokenizer, or it has neither the special tokens `<s>` 0, `<pad>` 1, `</s>` 2 nor
            those of BERT.
        """
        tokenizer = cls(text)
        try:
            ids = tokenizer._special
        except ImportError:
            raise
        except Exception as error:  # the package raises bare Exception for a malformed string
            raise ValueError(f"the tokenizer JSON cannot be read: {error}") from error
        if None in ids:
            raise ValueError(
                f"the tokenizer gives {', '.join(SPECIAL_TOKENS)} the ids {tokenizer._ids(SPECIAL_TOKENS)}, they must be "
                f"0, 1, 2 (or it must have BERT's {', '.join(BERT_TOKENS)})"
            )
        return tokenizer

    def to_json(self) -> str:
        """The JSON string that `from_json` reads."""
        return self.json

    @property
    def vocabulary(self) -> int:
        """Number of tokens, special ones included."""
        return self._engine.get_vocab_size()

    def encode(self, caption: str, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask of one caption, cut or padded to `length` tokens; `<s>` first, `</s>` after the last piece.

        The empty caption is `<s> </s>` (`[CLS] [SEP]` in a BERT). Text that looks like a special token is text.

        Returns:
          int32 `[length]` ids and bool `[length]` mask (True for everything but padding).

        Raises:
          ValueError: if length is below 2.
        """
        ids, mask = self.encode_batch([caption], length)
        return ids[0], mask[0]

    def encode_batch(self, captions: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        """`encode` of several captions: int32 `[B, length]` and bool `[B, length]`."""
        if length < 2:
            raise ValueError(f"a caption needs at least 2 tokens (start and end), got length {length}")
        start, pad, end = self._special
        ids = np.full((len(captions), length), pad, np.int32)
        mask = np.zeros((len(captions), length), bool)
        # Published tokenizers add the special tokens themselves unless they are told not to.
        cleaned = [_clean(caption) for caption in captions]
        for i, pieces in enumerate(self._engine.encode_batch(cleaned, add_special_tokens=False)):
            tokens = [start, *pieces.ids[: length - 2], end]
            ids[i, : len(tokens)], mask[i, : len(tokens)] = tokens, True
        return ids, mask

    def count(self, caption: str) -> int:
        """Tokens of a caption that is not cut, `<s>` and `</s>` included."""
        return len(self._engine.encode(_clean(caption), add_special_tokens=False).ids) + 2

    def decode(self, ids: Iterable[int]) -> str:
        """The caption that the ids stand for, special tokens left out."""
        return self._engine.decode([int(i) for i in ids], skip_special_tokens=True)

    @cached_property
    def _special(self) -> tuple[int | None, ...]:
        """Ids of start, padding and end; None where the tokenizer has no such token."""
        ids = self._ids(SPECIAL_TOKENS)
        if ids == (START, PAD, END):
            return ids
        # Padding of another id than 1 belongs to BERT's towers, which count positions from the mask alone.
        return self._ids(BERT_TOKENS)

    def _ids(self, tokens: Sequence[str]) -> tuple[int | None, ...]:
        return tuple(self._engine.token_to_id(token) for token in tokens)

    @cached_property
    def _engine(self):
        engine = _package().Tokenizer.from_str(self.json)
        engine.encode_special_tokens = True
        engine.no_padding()
        engine.no_truncation()
        return engine

    def __getstate__(self):
        return {"json": self.json}


def train_tokenizer(captions: Iterable[str], vocabulary: int) -> Tokenizer:
    """Learns a byte-level BPE from captions; the same captions in any order give the same tokenizer.

    Text is lower-cased and composed (NFKC), because a small vocabulary should not spend pieces on capitals; the JSON
    keeps that rule. All 256 bytes are in the vocabulary, so every string has tokens.

    Args:
      captions: training text, may be short or empty (then only bytes are known).
      vocabulary: most tokens to have, at least 259; fewer come out when the captions hold no more pairs.

    Raises:
      ValueError: if the vocabulary cannot hold the special tokens and all bytes.
      ImportError: if the `tokenizers` package is missing, with the way to install it.
    """
    if vocabulary < SMALLEST_VOCABULARY:
        raise ValueError(
            f"vocabulary must be at least {SMALLEST_VOCABULARY} (3 special tokens and 256 bytes), got {vocabulary}"
        )
    package = _package()
    engine = package.Tokenizer(package.models.BPE())
    engine.normalizer = package.normalizers.Sequence([package.normalizers.NFKC(), package.normalizers.Lowercase()])
    engine.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = package.decoders.ByteLevel()
    trainer = package.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=package.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    engine.train_from_iterator(sorted(_clean(caption) for caption in captions), trainer)
    # A compact form with sorted keys: the string is fingerprinted and stored inside model.json.
    return Tokenizer.from_json(json.dumps(json.loads(engine.to_str()), sort_keys=True, separators=(",", ":")))


def read_bpe(vocabulary: str | Path, merges: str | Path) -> Tokenizer:
    """Byte-level BPE of two published files, `vocab.json` and `merges.txt` (roberta); text is taken as it is.

    Raises:
      ValueError: if a file is missing or no such list, or the special tokens are not `<s>` 0, `<pad>` 1, `</s>` 2.
      ImportError: if the `tokenizers` package is missing.
    """
    package = _package()
    for path in (vocabulary, merges):
        if not Path(path).is_file():
            raise ValueError(f"{path}: no such file; a byte-level BPE consists of vocab.json and merges.txt")
    try:
        engine = package.Tokenizer(package.models.BPE.from_file(str(vocabulary), str(merges)))
    except Exception as error:  # the package raises bare Exception for a malformed file
        raise ValueError(f"{vocabulary} and {merges} cannot be read as a byte-level BPE: {error}") from error
    engine.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = package.decoders.ByteLevel()
    # They are in the vocabulary already; this only marks them, so that they are left out of decoded text.
    engine.add_special_tokens(list(SPECIAL_TOKENS))
    return Tokenizer.from_json(json.dumps(json.loads(engine.to_str()), sort_keys=True, separators=(",", ":")))


def empty_caption(length: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids int32 `[length]` and mask bool `[length]` of the caption without words, `<s> </s>`; needs no tokenizer."""
    ids = np.full(length, PAD, np.int32)
    ids[:2] = START, END
    return ids, ids != PAD


def _clean(caption: str) -> str:
    """Caption without lone surrogates, which have no bytes (file names and broken JSON bring them)."""
    return caption.encode("utf-8", "replace").decode("utf-8")


def _package():
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError("captions need the 'tokenizers' package: pip install 'spresso-jax[clap]'") from error
    return tokenizers
