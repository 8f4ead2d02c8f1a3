"""Checkpoints of the QINCo2 reference implementation turned into our quantizer.

The released weights are CC BY-NC 4.0: a quantizer made from them stays non-commercial.

Source: QINCo2 (arXiv 2501.03078) and the layout of its released checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from spresso_jax.interop.torch_files import load_torch_file
from spresso_jax.quantizer.qinco import Params, Qinco

LICENCE = "CC BY-NC 4.0"
_STEP = re.compile(r"steps\.(\d+)\.(.+)")


def _renamed(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Current names for every tensor: no data-parallel prefix, projections beside the residual blocks."""
    names = {}
    for name, value in state.items():
        name = re.sub(r"^module\.", "", name)
        name = re.sub(r"\.residual_blocks\.\d+\.(in_proj|out_proj)\.weight$", r".\1.weight", name)
        names[name] = np.asarray(value, np.float32)
    return names


def params_from_state(
    state: Mapping[str, np.ndarray], data_mean: np.ndarray | None = None, data_std: np.ndarray | None = None
) -> Params:
    """Our tree from a reference state dict (or from a tree of gradients under the same names).

    Args:
      state: tensors under the reference's names.
      data_mean: [D], only for files without `data_mean`.
      data_std: scalar or [D], only for files without `data_std`.
    Raises:
      ValueError: if a tensor is missing, or the model uses an inverted file.
    """
    state = _renamed(state)
    if any("ivf_centroids" in name for name in state):
        raise ValueError("the checkpoint has an inverted file (ivf_centroids): only plain QINCo2 models are supported")
    numbers = sorted({int(found[1]) for found in map(_STEP.match, state) if found})
    if not numbers or numbers != list(range(len(numbers))):
        raise ValueError(f"the checkpoint holds steps {numbers}, expected 0, 1, .. without a gap")

    def tensor(name: str) -> np.ndarray:
        if name not in state:
            raise ValueError(f"the checkpoint lacks the tensor {name}")
        return state[name]

    first = tensor("steps.0.codebook.weight")
    mean, std = state.get("data_mean", data_mean), state.get("data_std", data_std)
    if mean is None or std is None:
        raise ValueError("the checkpoint holds no data_mean and data_std: pass the ones it was trained with")
    dimension = first.shape[1]
    params: Params = {
        "data_mean": np.asarray(mean, np.float32).reshape(dimension),
        "data_std": np.broadcast_to(np.asarray(std, np.float32), (dimension,)).copy(),
        "first_codebook": first,
    }
    later = numbers[1:]
    if not later:
        return params

    def stacked(name: str) -> np.ndarray:
        return np.stack([tensor(f"steps.{number}.{name}") for number in later])

    concat = stacked("concat.mlp.weight").swapaxes(1, 2)
    width = concat.shape[2]
    steps = {
        "codebook": stacked("codebook.weight"),
        "concat_codeword": concat[:, :width],
        "concat_reconstruction": concat[:, width:],
        "concat_bias": stacked("concat.mlp.bias"),
    }
    if "steps.1.substep.codebook.weight" in state:
        steps["preselection"] = stacked("substep.codebook.weight")
    blocks = len([name for name in state if re.match(r"steps\.1\.residual_blocks\.\d+\.up_proj\.weight$", name)])
    for ours, theirs in (("up", "up_proj"), ("down", "down_proj")) if blocks else ():
        weights = [stacked(f"residual_blocks.{block}.{theirs}.weight").swapaxes(1, 2) for block in range(blocks)]
        steps[ours] = np.stack(weights, axis=1)
    if "steps.1.in_proj.weight" in state:
        steps["in_proj"] = stacked("in_proj.weight").swapaxes(1, 2)
        steps["out_proj"] = stacked("out_proj.weight").swapaxes(1, 2)
    return {**params, "steps": steps}


def quantizer_from_params(params: Params, preselect: int, beam: int, outer_skip: bool = True) -> Qinco:
    """Reads every size off the shapes; A and B are not part of the weights and must be given.

    Raises:
      ValueError: if A > 0 does not go with the presence of pre-selection codebooks.
    """
    codewords, dimension = params["first_codebook"].shape
    steps = params.get("steps", {})
    if steps and (preselect > 0) != ("preselection" in steps):
        raise ValueError(f"preselect={preselect} does not fit the checkpoint's pre-selection codebooks: check A")
    width = steps["concat_bias"].shape[-1] if steps else dimension
    return Qinco(
        codebooks=1 + (steps["codebook"].shape[0] if steps else 0),
        codewords=codewords,
        hidden_width=steps["up"].shape[-1] if "up" in steps else 1,
        blocks=steps["up"].shape[1] if "up" in steps else 0,
        preselect=preselect,
        beam=beam,
        dimension=dimension,
        embedding_width=None if width == dimension else width,
        outer_skip=outer_skip,
    )


def load_checkpoint(
    path: str | Path, data_mean: np.ndarray | None = None, data_std: np.ndarray | None = None
) -> tuple[Qinco, Params]:
    """Quantizer and parameters of a reference checkpoint (`.pt`); nothing in the file is executed.

    Args:
      path: the file.
      data_mean, data_std: the standardisation, for old files that do not hold it.
    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is damaged, is no such checkpoint, or contradicts its own sizes.
    """
    checkpoint = load_torch_file(path)
    if not isinstance(checkpoint, dict) or not {"model", "parameters"} <= set(checkpoint):
        raise ValueError(f"{path} is no QINCo2 checkpoint: it has no 'model' and 'parameters'")
    sizes = checkpoint["parameters"]
    params = params_from_state(checkpoint["model"], data_mean, data_std)
    quantizer = quantizer_from_params(
        params, sizes.get("A") or 0, sizes.get("B") or 1, outer_skip=not sizes.get("qinco1_mode")
    )
    stated = {"K": "codewords", "M": "codebooks", "L": "blocks", "de": "width"}
    for theirs, ours in stated.items():
        if sizes.get(theirs) is not None and sizes[theirs] != getattr(quantizer, ours):
            raise ValueError(f"{path} states {theirs}={sizes[theirs]} but its tensors have {getattr(quantizer, ours)}")
    return quantizer, params
