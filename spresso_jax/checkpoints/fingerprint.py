"""Fingerprints: which bytes, which numbers and which codes a model stands for.

Three questions need three answers. *Is this file intact?* The SHA-256 of its bytes. *Are these the same weights, stored
in another precision?* The SHA-256 of the values rounded to half precision. *What do these codes mean?* The model id:
the parts of a model that turn a sound into codes, so that a `.spresso` file is refused by every model that would
misread it, yet still opens with a later decoder trained for the same codes, or with the same model stored in half
precision. Latents have an id of their own, since they depend on the AudioAE and its statistics alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

MODEL_ID_BYTES = 3
_BLOCK = 1 << 20


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes as hex, read in blocks of 1 MiB.

    Raises:
      OSError: if the file cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def json_sha256(value) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces), as hex.

    Raises:
      TypeError: if `value` is not made of JSON types.
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def values_sha256(tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, shapes and values, floating values rounded to float16; equal for both storage precisions.

    Args:
      tensors: flat name -> array.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.asarray(tensors[name])
        if np.issubdtype(array.dtype, np.floating):
            with np.errstate(over="ignore"):
                array = array.astype("<f2")
        digest.update(json.dumps([name, array.dtype.str, list(array.shape)]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def model_id(facts: Mapping) -> bytes:
    """The three bytes that a `.spresso` file carries: a digest of everything that gives its codes their meaning.

    These are the values of g_psi and of the quantizer (with its statistics of z), the statistics of the latents that
    g_psi reads, t and the bits of a codebook.

    Args:
      facts: the `model.json` of a model folder, as `load_model` returns it.
    """
    point = facts.get("operating_point", {})
    values = facts.get("values", {})
    meaning = {
        "networks": {name: values.get(f"{name}.safetensors") for name in ("latent_encoder", "quantizer")},
        "latent_statistics": facts.get("latent_statistics"),
        "downsample": point.get("downsample"),
        "codebook_bits": point.get("codebook_bits"),
    }
    return bytes.fromhex(json_sha256(meaning))[:MODEL_ID_BYTES]


def latent_id(facts: Mapping) -> bytes:
    """The three bytes that a file of latents carries: a digest of the AudioAE's values and of the latents' statistics.

    Args:
      facts: the `model.json` of a model folder, as `load_model` returns it.
    """
    values = facts.get("values", {})
    meaning = {"audio_ae": values.get("audio_ae.safetensors"), "latent_statistics": facts.get("latent_statistics")}
    return bytes.fromhex(json_sha256(meaning))[:MODEL_ID_BYTES]


def check_identity(identity: bytes, own: bytes, name: str) -> None:
    """Raises ValueError if the id that a sound carries is not `own`, the id of the model called `name`."""
    if identity != own:
        raise ValueError(
            f"this sound was encoded with the model {identity.hex()}, not with {name} ({own.hex()}): choose that model"
        )
