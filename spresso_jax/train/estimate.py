"""What one update of a stage costs, told before anything is compiled: parameters, and multiply-adds counted in its trace."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params

from spresso_jax.checkpoints.trees import flatten
from spresso_jax.train.stage import Stage
from spresso_jax.train.state import create, inherit
from spresso_jax.train.update import make_update

Flops = dict[str, float]


@dataclass(frozen=True)
class Cost:
    """Cost of one stage.

    Attributes:
      parameters: elements of the networks that the stage makes or goes on with (not of networks that it only listens with).
      trained: those that some player owns.
      flops: dtype of the operands -> floating-point operations of one update over the whole batch.
    """

    parameters: int
    trained: int
    flops: Flops

    @property
    def total_flops(self) -> float:
        """Floating-point operations of one update."""
        return sum(self.flops.values())

    def seconds(self, rates: Mapping[str, float]) -> float:
        """Seconds of one update at `rates` (dtype -> operations a second)."""
        return sum(count / rates[dtype] for dtype, count in self.flops.items())


def stage_cost(stage: Stage, accumulate: int = 1) -> Cost:
    """Parameters and operations of a stage, from shapes alone: nothing is allocated, compiled or run.

    Args:
      stage: `upstream` may hold arrays or `jax.ShapeDtypeStruct`s.
      accumulate: micro-batches an update.
    """

    def start(key: jax.Array, upstream: Any) -> tuple:
        # As an argument the upstream model is a shape here, not a gigabyte of constants.
        heir = replace(stage, upstream=upstream)
        networks = heir.init(key)
        return create(heir, inherit(heir, networks), key), networks

    (state, frozen), own = jax.eval_shape(start, jax.random.key(0), stage.upstream)
    flops = count_flops(make_update(stage, accumulate), state, frozen, dict(stage.batch_spec))
    return Cost(_elements(own), _elements(state.params), flops)


def count_flops(function: Callable, *arguments: Any) -> Flops:
    """Operations of the matrix products and convolutions of `function(*arguments)`, by dtype of the operands.

    A multiply-add is two operations, and so it is in every published figure; additions, exponentials and the like, a few per
    cent of a transformer, are not counted. Loops count by their length; a loop whose length only the run knows counts once,
    and of the branches of a condition the dearest.

    Args:
      arguments: arrays or `jax.ShapeDtypeStruct`s.
    """
    return _of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def measure_rate(dtype: str, size: int = 1024, seconds: float = 0.5) -> float:
    """Operations a second of square matrix products on the default device: the speed that no update exceeds.

    Args:
      dtype: of the operands.
      size: side of the matrices.
      seconds: how long to measure, after one product to compile.
    """
    product = jax.jit(lambda a, b: a @ b)
    a = jnp.full((size, size), 1.0 / size, dtype)
    jax.block_until_ready(product(a, a))
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds or not count:
        jax.block_until_ready(product(a, a))
        count += 1
    return 2.0 * size**3 * count / (time.perf_counter() - began)


def _of_jaxpr(jaxpr: Any) -> Flops:
    total: Flops = {}
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in _COUNTED:
            dtype = str(equation.invars[0].aval.dtype)
            total[dtype] = total.get(dtype, 0.0) + _COUNTED[name](equation)
            continue
        inner = [_of_jaxpr(part) for part in jaxprs_in_params(equation.params)]
        if name == "cond" and inner:
            inner = [max(inner, key=lambda branch: sum(branch.values()))]
        times = equation.params["length"] if name == "scan" else 1
        for part in inner:
            for dtype, count in part.items():
                total[dtype] = total.get(dtype, 0.0) + times * count
    return total


def _dot_general(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)


def _convolution(equation: Any) -> float:
    kernel, numbers = equation.invars[1].aval.shape, equation.params["dimension_numbers"].rhs_spec
    # rhs_spec: (output channels, input channels of one group, window...)
    taps = math.prod(kernel[axis] for axis in numbers[1:])
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * taps


_COUNTED = {"dot_general": _dot_general, "conv_general_dilated": _convolution}


def _elements(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in flatten(tree).values())
