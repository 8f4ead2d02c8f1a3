"""Low-rank adapters: a Dense layer that may carry one, and the merging and overlaying of parameter trees.

Source: Hu et al., LoRA, equation 3; Kalajdzievski, rank-stabilised scaling alpha / sqrt(r).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

Params = Mapping[str, Any]
LEAVES = ("lora_a", "lora_b", "lora_bias")


def scaling(rank: int, alpha: float, rank_stabilised: bool = False) -> float:
    """Factor of the adapter: alpha / r, or alpha / sqrt(r); alpha 0 stands for alpha = r (a factor of one)."""
    return (alpha or rank) / (math.sqrt(rank) if rank_stabilised else rank)


def _uniform_of_fan_in(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    limit = 1.0 / math.sqrt(shape[0])
    return jax.random.uniform(key, shape, dtype, -limit, limit)


class LoraDense(nn.Module):
    """`x W + b + s (x A) B`; with rank 0 an ordinary Dense layer.

    Parameters: `kernel` [in, features], `bias` [features]; with rank > 0 also `lora_a` [in, r], `lora_b` [r, features]
    (zero at first, so that the adapter starts as the identity), and `lora_bias` [features] when `adapter_bias`.

    Attributes:
      features: output size.
      rank, alpha, rank_stabilised: of the adapter; see `scaling`.
      dtype: of the products; parameters stay float32.
    """

    features: int
    rank: int = 0
    alpha: float = 0.0
    rank_stabilised: bool = False
    adapter_bias: bool = False
    use_bias: bool = True
    dtype: str = "float32"
    kernel_init: Callable = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        fan_in, dtype, lead = x.shape[-1], jnp.dtype(self.dtype), x.shape[:-1]
        # One matrix: on the CPU backend the weight gradient of a product with two leading axes takes twice as long.
        x = x.astype(dtype).reshape(-1, fan_in)
        y = x @ self.param("kernel", self.kernel_init, (fan_in, self.features)).astype(dtype)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros_init(), (self.features,)).astype(dtype)
        if self.rank:
            a = self.param("lora_a", _uniform_of_fan_in, (fan_in, self.rank)).astype(dtype)
            b = self.param("lora_b", nn.initializers.zeros_init(), (self.rank, self.features)).astype(dtype)
            low = (x @ a) @ b
            if self.adapter_bias:
                low = low + self.param("lora_bias", nn.initializers.zeros_init(), (self.features,)).astype(dtype)
            y = y + low * scaling(self.rank, self.alpha, self.rank_stabilised)
        return y.reshape(*lead, self.features)


def _delta(layer: Params, alpha: float, rank_stabilised: bool) -> tuple[Any, Any]:
    """What the adapter of one layer adds to its kernel and to its bias, at least float32; scan axes may lead."""
    a, b = layer["lora_a"], layer["lora_b"]
    factor = scaling(a.shape[-1], alpha, rank_stabilised)
    if isinstance(a, np.ndarray):
        kernel = factor * (a.astype(np.promote_types(a.dtype, np.float32)) @ b)
    else:
        kernel = factor * jnp.matmul(a, b, precision="highest", preferred_element_type=jnp.promote_types(a.dtype, "f4"))
    return kernel, factor * layer["lora_bias"] if "lora_bias" in layer else None


def _fold(tree: Params, adapters: Params, sign: float, alpha: float, rank_stabilised: bool) -> dict[str, Any]:
    out = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            out[name] = _fold(value, adapters.get(name, {}), sign, alpha, rank_stabilised)
        elif name not in LEAVES:
            out[name] = value
    if "lora_a" in adapters:
        kernel, bias = _delta(adapters, alpha, rank_stabilised)
        out["kernel"] = (tree["kernel"] + sign * kernel).astype(tree["kernel"].dtype)
        if bias is not None:
            base = tree.get("bias")
            out["bias"] = sign * bias if base is None else (base + sign * bias).astype(base.dtype)
    return out


def merge(params: Params, alpha: float, rank_stabilised: bool = False) -> dict[str, Any]:
    """Parameters without adapter leaves, each adapter folded into its kernel (and bias).

    Works on a tree of any depth and on stacked layers (leading axes of nn.scan). Keep the original tree if you want to
    take the adapters out again: folding in and out rounds in the dtype of the kernel.
    """
    return _fold(params, params, 1.0, alpha, rank_stabilised)


def unmerge(merged: Params, adapters: Params, alpha: float, rank_stabilised: bool = False) -> dict[str, Any]:
    """Takes adapters out of merged kernels again; `adapters` is any tree with the adapter leaves at their paths."""
    return _fold(merged, adapters, -1.0, alpha, rank_stabilised)


def overlay(full: Params, pretrained: Params, path: str = "") -> dict[str, Any]:
    """`full` with every leaf that `pretrained` also has taken from `pretrained`: new leaves keep their fresh values.

    This is how a pretrained network gets adapters or a third stream: both only add leaves.

    Raises:
      ValueError: if `pretrained` has a leaf that `full` lacks, or one of another shape.
    """
    out = dict(full)
    for name, value in pretrained.items():
        here = f"{path}/{name}" if path else name
        if name not in full or isinstance(value, Mapping) != isinstance(full[name], Mapping):
            raise ValueError(f"parameter {here} of the pretrained network has no counterpart: do the configs differ?")
        if isinstance(value, Mapping):
            out[name] = overlay(full[name], value, here)
        elif value.shape != full[name].shape:
            raise ValueError(f"parameter {here} is {value.shape} in the pretrained network, {full[name].shape} here")
        else:
            out[name] = value
    return out
