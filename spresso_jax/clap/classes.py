"""The classes that may be the network `clap` of a model folder.

Each reads captions by one interface, `encode_text(tokens, mask) -> (states [B, N, D], pooled [B, E])`, which is all that
the DiT, the caches and the codec ask of it; those that compare sounds have `encode_audio(audio [B, S, 1]) -> [B, E]` too.
"""

from __future__ import annotations

import importlib

CLASSES = {
    "Clap": "spresso_jax.clap.model",
    "PasstClap": "spresso_jax.clap.passt_clap",
    "TextConditioner": "spresso_jax.clap.text_conditioner",
}


def clap_class(name: str) -> type:
    """The class called `name`; "" is `Clap`, as in model folders that name none.

    Raises:
      ValueError: if there is none.
    """
    name = name or "Clap"
    if name not in CLASSES:
        raise ValueError(f"the network clap was written by the class {name}, known are {', '.join(CLASSES)}")
    return getattr(importlib.import_module(CLASSES[name]), name)
