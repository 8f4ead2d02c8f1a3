"""Checkpoints of the QINCo2 reference implementation turned into our quantizer, and ours into theirs.

The released weights are CC BY-NC 4.0: a quantizer made from them stays non-commercial.

Source: QINCo2 (arXiv 2501.03078) and the layout of its released checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spresso_jax.checkpoints.trees import check_shapes
from spresso_jax.interop.torch_files import load_torch_file
from spresso_jax.interop.torch_writer import save_torch_file
from spresso_jax.quantizer.qinco import Params, Qinco

LICENCE = "CC BY-NC 4.0 (non-commercial; weights of the QINCo2 project, facebookresearch/Qinco)"
_STEP = re.compile(r"steps\.(\d+)\.(.+)")
# What a plain model may hold; the running statistics serve the reference's reset of unused codewords alone.
_KNOWN = re.compile(
    r"data_mean|data_std|steps\.\d+\.(xtarget_mean|xtarget_var|(substep\.)?codebook\.weight|concat\.mlp\.(weight|bias)"
    r"|(in_proj|out_proj)\.weight|residual_blocks\.\d+\.(up_proj|down_proj)\.weight)"
)


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
      ValueError: if a tensor is missing or unknown, the model uses an inverted file, or the statistics are given twice.
    """
    state = _renamed(state)
    if any("ivf_centroids" in name for name in state):
        raise ValueError("the checkpoint has an inverted file (ivf_centroids): only plain QINCo2 models are supported")
    unknown = sorted(name for name in state if not _KNOWN.fullmatch(name))
    if unknown:
        raise ValueError(f"the checkpoint holds {unknown[0]!r} ({len(unknown)} unknown in all): no QINCo2 model has it")
    numbers = sorted({int(found[1]) for found in map(_STEP.match, state) if found})
    if not numbers or numbers != list(range(len(numbers))):
        raise ValueError(f"the checkpoint holds steps {numbers[:8]}, expected 0, 1, .. without a gap")

    def tensor(name: str, axes: int) -> np.ndarray:
        if name not in state:
            raise ValueError(f"the checkpoint lacks the tensor {name}")
        if state[name].ndim != axes:
            raise ValueError(f"the tensor {name} has shape {state[name].shape}, expected {axes} axes")
        return state[name]

    first = tensor("steps.0.codebook.weight", 2)
    mean, std = _statistics(state, first.shape[1], data_mean, data_std)
    params: Params = {"data_mean": mean, "data_std": std, "first_codebook": first}
    later = numbers[1:]
    if not later:
        return params

    def stacked(name: str, axes: int = 2) -> np.ndarray:
        parts = [tensor(f"steps.{number}.{name}", axes) for number in later]
        shapes = {part.shape for part in parts}
        if len(shapes) > 1:
            raise ValueError(f"the tensors steps.*.{name} have shapes {sorted(shapes)}: all steps must be of one size")
        return np.stack(parts)

    concat = stacked("concat.mlp.weight").swapaxes(1, 2)
    width = concat.shape[2]
    steps = {
        "codebook": stacked("codebook.weight"),
        "concat_codeword": concat[:, :width],
        "concat_reconstruction": concat[:, width:],
        "concat_bias": stacked("concat.mlp.bias", 1),
    }
    if "steps.1.substep.codebook.weight" in state:
        steps["preselection"] = stacked("substep.codebook.weight")
    blocks = len([name for name in state if re.match(r"steps\.1\.residual_blocks\.\d+\.up_proj\.weight$", name)])
    for ours, theirs in (("up", "up_proj"), ("down", "down_proj")) if blocks else ():
        weights = [stacked(f"residual_blocks.{block}.{theirs}.weight").swapaxes(1, 2) for block in range(blocks)]
        if len({part.shape for part in weights}) > 1:
            raise ValueError(f"the residual blocks' {theirs} differ in shape: all blocks must be of one size")
        steps[ours] = np.stack(weights, axis=1)
    if "steps.1.in_proj.weight" in state:
        steps["in_proj"] = stacked("in_proj.weight").swapaxes(1, 2)
        steps["out_proj"] = stacked("out_proj.weight").swapaxes(1, 2)
    return {**params, "steps": steps}


def _statistics(
    state: Mapping[str, np.ndarray], dimension: int, data_mean: np.ndarray | None, data_std: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and scale [D], of the file or as given."""
    given = data_mean is not None or data_std is not None
    if given and ("data_mean" in state or "data_std" in state):
        raise ValueError("the checkpoint holds its own data_mean and data_std: do not pass others")
    mean, std = state.get("data_mean", data_mean), state.get("data_std", data_std)
    if mean is None or std is None:
        raise ValueError(
            "the checkpoint holds no data_mean and data_std (an older file): pass both as they were in its training"
        )
    mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    if mean.shape != (dimension,) or std.shape not in ((), (1,), (dimension,)):
        raise ValueError(
            f"data_mean has shape {mean.shape} and data_std {std.shape}, expected ({dimension},) and one number"
        )
    return mean.copy(), np.broadcast_to(std, (dimension,)).copy()


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
    path: str | Path,
    data_mean: np.ndarray | None = None,
    data_std: np.ndarray | None = None,
    preselect: int | None = None,
    beam: int | None = None,
) -> tuple[Qinco, Params]:
    """Quantizer and parameters of a reference checkpoint (`.pt`); nothing in the file is executed.

    Args:
      path: the file, of the current layout or the older one.
      data_mean, data_std: the standardisation, for old files that do not hold it.
      preselect, beam: A and B, for old files that do not state them.
    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: naming the file, if it is damaged, is no such checkpoint, or contradicts its own sizes.
    """
    checkpoint = load_torch_file(path)
    try:
        return _read_checkpoint(checkpoint, data_mean, data_std, preselect, beam)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _read_checkpoint(
    checkpoint: Any,
    data_mean: np.ndarray | None,
    data_std: np.ndarray | None,
    preselect: int | None,
    beam: int | None,
) -> tuple[Qinco, Params]:
    state = checkpoint.get("model") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise ValueError("no QINCo2 checkpoint: it has no state dict 'model'")
    strangers = [name for name, value in state.items() if not isinstance(value, np.ndarray) or value.dtype.kind != "f"]
    if strangers:
        raise ValueError(f"{strangers[0]!r} is no floating tensor: is this a QINCo2 checkpoint?")
    for name, value in state.items():
        if not np.isfinite(value).all():
            raise ValueError(f"the tensor {name} holds NaN or infinity: its training diverged")
    sizes = checkpoint.get("parameters", {})
    if not isinstance(sizes, dict):
        raise ValueError("'parameters' holds no names and values")
    sizes = {name: value for name, value in sizes.items() if value is not None}
    wrong = [name for name, value in sizes.items() if not isinstance(value, int)]
    if wrong:
        raise ValueError(f"'parameters' states {wrong[0]}={sizes[wrong[0]]!r}, which is no whole number")
    if sizes.get("ivf_in_use"):
        raise ValueError("the checkpoint uses an inverted file: only plain QINCo2 models are supported")
    params = params_from_state(state, data_mean, data_std)
    if (params["data_std"] <= 0).any() or not np.isfinite([params["data_mean"], params["data_std"]]).all():
        raise ValueError("data_std must be positive, and data_mean and data_std finite")
    for name, given in (("A", preselect), ("B", beam)):
        if given is not None:
            sizes[name] = given
        if name not in sizes and not checkpoint.get("parameters"):
            raise ValueError(
                "the checkpoint states no A and B (an older file): pass the pre-selection and beam it used"
            )
    quantizer = quantizer_from_params(
        params, sizes.get("A", 0), sizes.get("B", 1), outer_skip=not sizes.get("qinco1_mode")
    )
    stated = {"K": "codewords", "M": "codebooks", "L": "blocks", "de": "width", "dh": "hidden_width"}
    for theirs, ours in stated.items():
        unseen = theirs in ("L", "de", "dh") and quantizer.codebooks == 1 or theirs == "dh" and quantizer.blocks == 0
        if theirs in sizes and sizes[theirs] != getattr(quantizer, ours) and not unseen:
            raise ValueError(
                f"'parameters' states {theirs}={sizes[theirs]}, its tensors have {getattr(quantizer, ours)}"
            )
    check_shapes(params, jax.eval_shape(quantizer.init, jax.random.key(0)), "the checkpoint")
    return quantizer, params


def state_from_params(quantizer: Qinco, params: Params) -> dict[str, np.ndarray]:
    """Our tree as a reference state dict, in its order; the inverse of `params_from_state`.

    The running statistics of residuals that the reference keeps for its codeword resets are not part of a quantizer:
    they are written as it starts them (zeros and ones).

    Args:
      quantizer: the sizes.
      params: its tree.
    Raises:
      ValueError: if the standardisation has a scale for every dimension. The reference has one scale for all. For the
        decoder a scale for every dimension could be folded into the codebooks and projections, but the reference
        would then choose codes by distances between vectors that are not scaled: other codes than ours.
    """
    params = jax.tree.map(np.asarray, params)
    std = params["data_std"]
    if (std != std[0]).any():
        raise ValueError(
            f"data_std differs between dimensions ({std.min():.4g} to {std.max():.4g}); the official layout has one scale for"
            " all, with which other codes would be chosen: train with --set initialisation.scale=single to export"
        )
    dimension = quantizer.dimension
    state = {"data_mean": params["data_mean"], "data_std": std[0].reshape(())}
    for number in range(quantizer.codebooks):
        prefix = f"steps.{number}."
        state[f"{prefix}xtarget_mean"] = np.zeros(dimension, np.float32)
        state[f"{prefix}xtarget_var"] = np.ones(dimension, np.float32)
        if number == 0:
            state[f"{prefix}codebook.weight"] = params["first_codebook"]
            continue
        step = {name: leaf[number - 1] for name, leaf in params["steps"].items()}
        if quantizer.preselect > 0:
            state[f"{prefix}substep.codebook.weight"] = step["preselection"]
        state[f"{prefix}codebook.weight"] = step["codebook"]
        concat = np.concatenate([step["concat_codeword"], step["concat_reconstruction"]])
        state[f"{prefix}concat.mlp.weight"] = concat.T
        state[f"{prefix}concat.mlp.bias"] = step["concat_bias"]
        for block in range(quantizer.blocks):
            state[f"{prefix}residual_blocks.{block}.up_proj.weight"] = step["up"][block].T
            state[f"{prefix}residual_blocks.{block}.down_proj.weight"] = step["down"][block].T
        if quantizer.projected:
            state[f"{prefix}in_proj.weight"] = step["in_proj"].T
            state[f"{prefix}out_proj.weight"] = step["out_proj"].T
    return {name: np.ascontiguousarray(value, np.float32).reshape(value.shape) for name, value in state.items()}


def save_checkpoint(path: str | Path, quantizer: Qinco, params: Params) -> Path:
    """Writes a quantizer as the reference's checkpoint, without state of an optimiser.

    Raises:
      ValueError: as `state_from_params`.
      OSError: if the file cannot be written.
    """
    sizes = {
        "K": quantizer.codewords,
        "M": quantizer.codebooks,
        **({"de": quantizer.width} if quantizer.projected else {}),
        "dh": quantizer.hidden_width,
        "L": quantizer.blocks,
        "A": quantizer.preselect,
        "B": quantizer.beam,
        **({} if quantizer.outer_skip else {"qinco1_mode": True}),
    }
    content = {
        "epoch": None,
        "model": state_from_params(quantizer, params),
        "optimizer": None,
        "scheduler": None,
        "logger": None,
        "parameters": sizes,
        "data_dim": quantizer.dimension,
    }
    return save_torch_file(path, content)
