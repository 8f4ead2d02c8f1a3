"""DAC's discriminators in their own layout, with old and new names of weight normalisation, turned into ours.

Source: DAC (arXiv:2306.06546) and the names of its modules: `discriminators.{i}.convs.{j}.0` (multi-period and
multi-scale), `.band_convs.{band}.{j}.0` (multi-resolution), `.conv_post`; weight g v / |v| as `weight_g` and `weight_v`,
or `parametrizations.weight.original0` and `original1`. DAC published no such weights; users of its training code have
them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from spresso_jax.audio_ae.discriminators import FFT_SIZES, PERIODS, Discriminator
from spresso_jax.interop.foreign_tensors import ForeignTensors

KINDS = ("period", "spectrum", "rate")
_LEAVES = {"weight_v": "kernel", "weight_g": "scale", "bias": "bias"}
_NEW_NAMES = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
_EXAMPLE_SAMPLES = 8192


def old_names(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same tensors with `weight_g` and `weight_v` for the newer parametrisation names.

    Raises:
      ValueError: if a weight is there under both names.
    """
    renamed = {}
    for name, value in state.items():
        for new, old in _NEW_NAMES.items():
            name = name.removesuffix(new) + old if name.endswith(f".{new}") else name
        if name in renamed:
            raise ValueError(f"the discriminator holds {name} twice, under its old and its new name")
        renamed[name] = value
    return renamed


def kernel_from_foreign(value: np.ndarray, kind: str) -> np.ndarray:
    """`[out, in, ...]` -> `[..., in, out]`; a multi-period kernel loses its axis of size one."""
    return np.moveaxis(value[..., 0] if kind == "period" else value, (1, 0), (-2, -1))


def sub_discriminator_params(state: Mapping[str, np.ndarray], kind: str) -> dict[str, dict[str, np.ndarray]]:
    """Parameters of one sub-discriminator, from names such as `convs.0.0.weight_v`.

    Args:
      state: its tensors, without the prefix `discriminators.{i}.`.
      kind: 'period', 'spectrum' or 'rate'.

    Raises:
      ValueError: for an unknown kind or name.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    tree: dict[str, dict[str, np.ndarray]] = {}
    for name, value in old_names(state).items():
        layer, leaf = _place(name, kind)
        value = np.asarray(value)
        tree.setdefault(layer, {})[leaf] = kernel_from_foreign(value, kind) if leaf == "kernel" else value.ravel()
    return tree


def discriminator_layout(config: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], tuple[str, str, str]]]:
    """Every old name of a whole discriminator -> (foreign shape, path of our leaf: sub-discriminator, layer, leaf).

    Args:
      config: fields of `Discriminator`.
    """
    module = Discriminator(**config)
    example = jax.ShapeDtypeStruct((1, _EXAMPLE_SAMPLES, 1), np.float32)
    made = jax.eval_shape(module.init, jax.random.key(0), example)["params"]
    foreign = {leaf: name for name, leaf in _LEAVES.items()}
    layout = {}
    for i, (kind, sub) in enumerate(_subs(module)):
        for layer, leaves in made[sub].items():
            numbers = ".".join(re.findall(r"\d+", layer))
            stem = "conv_post" if layer == "score" else f"{'band_convs' if kind == 'spectrum' else 'convs'}.{numbers}.0"
            *size, inputs, outputs = leaves["kernel"].shape
            tail = (*size, 1) if kind == "period" else tuple(size)
            shapes = {
                "kernel": (outputs, inputs, *tail),
                "scale": (outputs, *(1,) * (1 + len(tail))),
                "bias": (outputs,),
            }
            for leaf, shape in shapes.items():
                layout[f"discriminators.{i}.{stem}.{foreign[leaf]}"] = shape, (sub, layer, leaf)
    return layout


def discriminator_from_state(
    state: Mapping[str, np.ndarray],
    periods: Sequence[int] = PERIODS,
    fft_sizes: Sequence[int] = FFT_SIZES,
    msd_rates: Sequence[int] = (),
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields of `Discriminator` and its parameters, from a whole state dict.

    Args:
      state: tensors by DAC's names, in the order periods, rates, FFT sizes.
      periods, fft_sizes, msd_rates: what the weights do not tell.

    Raises:
      ValueError: if the numbers of sub-discriminators differ from those sequences; listing tensors that are missing,
        unexpected or of another shape.
    """
    tensors = ForeignTensors(old_names(state), "the discriminator")
    kinds = [_kind_of(tensors, i) for i in range(tensors.count("discriminators.", "the discriminator"))]
    named = {"period": periods, "rate": msd_rates, "spectrum": fft_sizes}
    wanted = [kind for kind, values in named.items() for _ in values]
    if kinds != wanted:
        raise ValueError(
            f"the weights hold the discriminators {', '.join(kinds)}; periods, msd_rates and fft_sizes ask for "
            f"{', '.join(wanted)}"
        )
    config: dict[str, Any] = {
        "periods": list(periods),
        "fft_sizes": list(fft_sizes),
        "msd_rates": list(msd_rates),
    }
    for kind, field in (("period", "period_channels"), ("rate", "rate_channels")):
        if kind in kinds:
            prefix = f"discriminators.{kinds.index(kind)}.convs."
            layers = range(tensors.count(prefix, "the layer"))
            axes = 4 if kind == "period" else 3
            config[field] = [tensors.shape(f"{prefix}{j}.0.weight_v", axes)[0] for j in layers]
    if "spectrum" in kinds:
        first = f"discriminators.{kinds.index('spectrum')}.band_convs.0.0.0.weight_v"
        config["spectrum_channels"] = tensors.shape(first, 4)[0]
    layout = discriminator_layout(config)
    tensors.require({name: shape for name, (shape, _) in layout.items()})
    tree: dict[str, Any] = {}
    for i, (kind, sub) in enumerate(_subs(Discriminator(**config))):
        prefix = f"discriminators.{i}."
        part = {name.removeprefix(prefix): tensors.take(name) for name in layout if name.startswith(prefix)}
        tree[sub] = sub_discriminator_params(part, kind)
    tensors.finish()
    return config, tree


def _subs(module: Discriminator) -> list[tuple[str, str]]:
    """(kind, our name) of the sub-discriminators in DAC's order, which is not ours: rates come before FFT sizes."""
    named = (("period", module.periods), ("rate", module.msd_rates), ("spectrum", module.fft_sizes))
    return [(kind, f"{kind}_{value}") for kind, values in named for value in values]


def _kind_of(tensors: ForeignTensors, i: int) -> str:
    if tensors.any_with(f"discriminators.{i}.band_convs."):
        return "spectrum"
    name = f"discriminators.{i}.conv_post.weight_v"
    kind = {4: "period", 3: "rate"}.get(len(tensors.shape(name)))
    if kind is None:
        raise ValueError(f"the kind of discriminator {i} cannot be told: {name} has shape {tensors.shape(name)}")
    return kind


def _place(name: str, kind: str) -> tuple[str, str]:
    """(layer, leaf) of ours for a foreign name."""
    stem, _, leaf = name.rpartition(".")
    if leaf in _LEAVES:
        if stem == "conv_post":
            return "score", _LEAVES[leaf]
        if kind == "spectrum" and (found := re.fullmatch(r"band_convs\.(\d+)\.(\d+)\.0", stem)):
            return f"band_{found[1]}_layer_{found[2]}", _LEAVES[leaf]
        if kind != "spectrum" and (found := re.fullmatch(r"convs\.(\d+)\.0", stem)):
            return f"layer_{found[1]}", _LEAVES[leaf]
    raise ValueError(f"a {kind} discriminator has no tensor {name!r}")
