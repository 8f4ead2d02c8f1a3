"""Captions as the DiT reads them: token states of the model's own text tower, loaded with the first caption."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from spresso_jax.checkpoints.weights import Model, load_model
from spresso_jax.codec.networks import prepared
from spresso_jax.diffusion_autoencoder.model import null_caption

# Token states [1, N, Dt], mask [1, N], and pooled text [1, E] or None.
Text = tuple[jax.Array, jax.Array, jax.Array | None]


class Captions:
    """Text tower and tokenizer of one model.

    Attributes:
      tokens: positions that its DiT has for text, start and end of the caption included.
    """

    def __init__(self, model: Model, dit: Any):
        """Reads nothing yet.

        Args:
          model: its facts, its folder, and "clap" if that is in memory.
          dit: module of the DiT that is told the captions.
        """
        self._facts: Mapping[str, Any] = model.facts
        self._folder: Path | None = model.folder
        self._name = str(model.facts.get("name", model.folder.name if model.folder else "unnamed"))
        self._clap = model.networks.get("clap")
        self._dit = dit
        self._last: tuple[str, Text] | None = None
        self.tokens = dit.text_tokens

    def check(self, caption: str) -> None:
        """Refuses a caption that says nothing, that the model could not read whole, or that it cannot read at all.

        Raises:
          ValueError: naming what is wrong, and both numbers if it is the length.
        """
        if not caption.strip():
            raise ValueError("the caption is empty: say what is heard, or leave it out")
        stored = self._folder is not None and "clap.safetensors" in self._facts.get("fingerprints", {})
        if not self._facts.get("tokenizer") or (self._clap is None and not stored):
            raise ValueError(f"{self._name} has no text tower and tokenizer, so it runs without a caption only")
        count = self._tokenizer.count(caption)
        if count > self.tokens:
            raise ValueError(
                f"the caption has {count} tokens and {self._name} reads {self.tokens} at most, start and end included:"
                " shorten it"
            )

    def null(self) -> Text:
        """What the DiT is told about a sound without a caption."""
        return (*null_caption(self._dit, 1), None)

    def read(self, caption: str | None) -> Text:
        """Token states, mask and pooled text (None if the DiT takes none) of a caption; None is the null caption.

        Raises:
          ValueError: as `check`.
        """
        if caption is None:
            return self.null()
        if self._last is None or self._last[0] != caption:
            self.check(caption)
            self._last = caption, self._encoded(caption)
        return self._last[1]

    def _encoded(self, caption: str) -> Text:
        if self._clap is None:
            self._clap = load_model(self._folder, only=["clap"]).networks["clap"]
        module, params = prepared("clap", self._clap, jax.default_backend() == "cpu")
        tokens, mask = self._tokenizer.encode(caption, self.tokens)
        encode = jax.jit(lambda p, ids, valid: module.apply({"params": p}, ids, valid, method="encode_text"))
        states, pooled = encode(params, tokens[None], mask[None])
        pooled = pooled if self._dit.pooled_text_width else None
        return states.astype(jnp.float32), jnp.asarray(mask[None]), pooled

    @cached_property
    def _tokenizer(self) -> Any:
        from spresso_jax.clap.tokenizer import Tokenizer

        return Tokenizer.from_json(self._facts["tokenizer"])
