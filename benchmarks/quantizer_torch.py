"""The QINCo2 reference as a peer: its own model and TorchScript inference, from a checkout outside of this project.

The reference is CC BY-NC: nothing of it lies here. What its constructors read of a configuration is given as plain fields.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch


def _settings(sizes: Mapping[str, int | None], batch: int) -> SimpleNamespace:
    """What a plain (not inverted-file) QINCo2 model reads of its configuration; `sizes` are K, M, D, de, dh, L, A, B."""
    steps, codewords = sizes["M"], sizes["K"]
    return SimpleNamespace(
        **{name: value for name, value in sizes.items() if name != "D"},
        _D=sizes["D"],
        _M_ivf=steps,
        _K_vals=[codewords] * steps,
        _ivf_book=None,
        _qinco_jit=False,  # its trainer scripts the layers; the step took 1.5 s to 1.6 s either way
        _accelerator=SimpleNamespace(print=lambda *words: None, device=torch.device("cpu")),
        ivf_in_use=False,
        qinco1_mode=False,
        codebook_noise_init=0.1,
        enc_max_bs=65536,
        batch=batch,
        task="eval",
    )


def model(reference: str, sizes: Mapping[str, int | None], state: Mapping[str, np.ndarray]) -> torch.nn.Module:
    """The reference's model with the tensors of `state`; buffers that it lacks keep their start."""
    sys.path.insert(0, reference)
    from qinco.model import QINCo

    made = QINCo(_settings(sizes, 1))
    made.load_state_dict(made.state_dict() | {name: torch.from_numpy(array) for name, array in state.items()})
    return made


def scripted(made: torch.nn.Module, sizes: Mapping[str, int | None], batch: int) -> Any:
    """The reference's inference module, with its encoder and decoder scripted and warmed up on `batch` rows."""
    from qinco.model import QINCoInferenceWrapper

    wrapper = QINCoInferenceWrapper(_settings(sizes, batch), made)
    wrapper.build()
    return wrapper
