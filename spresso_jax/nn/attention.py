"""Softmax attention without masks: the only attention of the project, with one form per backend.

Every sequence in S-PRESSO has a static length (learned padding stands in for missing text), so no mask exists anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

FORMS = ("cpu_einsum", "xla", "cudnn")
HEAD_BY_HEAD_BYTES = 2**19
# Blocks that are recomputed in the backward pass may keep results of this name (nn/transformer.py).
NAME = "attended"


def choose_form(dtype: jnp.dtype, head_dim: int, biased: bool = False) -> str:
    """Name of the form that suits the default backend for these operands.

    cuDNN takes half precision with head sizes that are multiples of 8 up to 128, and has no bias gradient for batches
    above one (jax-ml/jax#30593), so everything else on an accelerator takes XLA's form.
    """
    backend = jax.default_backend()
    if backend == "cpu":
        return "cpu_einsum"
    half = jnp.dtype(dtype) in (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16))
    if backend == "gpu" and half and not biased and head_dim % 8 == 0 and head_dim <= 128:
        return "cudnn"
    return "xla"


def attention(
    q: jax.Array, k: jax.Array, v: jax.Array, *, logit_bias: jax.Array | None = None, form: str | None = None
) -> jax.Array:
    """Full softmax attention, `softmax(q k^T / sqrt(head_dim) + bias) v`, softmax in float32 or wider.

    Args:
      q: [B, Lq, H, head_dim].
      k, v: [B, Lk, H, head_dim].
      logit_bias: [H, Lk], added to the logits of every query, or None.
      form: "cpu_einsum", "xla" or "cudnn"; None chooses by the default backend while tracing.

    Returns:
      [B, Lq, H, head_dim] in the dtype of `q`.

    Raises:
      ValueError: if `form` is unknown, or is "cudnn" together with a bias.
    """
    form = form or choose_form(q.dtype, q.shape[-1], logit_bias is not None)
    if form == "cpu_einsum":
        return checkpoint_name(_einsum_form(q, k, v, logit_bias), NAME)
    if form not in FORMS:
        raise ValueError(f"attention form {form!r} is unknown: choose one of {', '.join(FORMS)}")
    if form == "cudnn" and logit_bias is not None:
        raise ValueError('attention form "cudnn" has no gradient for a logit bias: use form "xla"')
    bias = None if logit_bias is None else logit_bias[None, :, None, :].astype(q.dtype)
    return checkpoint_name(jax.nn.dot_product_attention(q, k, v, bias=bias, implementation=form), NAME)


def _einsum_form(q: jax.Array, k: jax.Array, v: jax.Array, logit_bias: jax.Array | None) -> jax.Array:
    """The form of the CPU backend: [B, H, L, head_dim], three times faster there than products in [B, L, H, head_dim].

    Logits of one head that outgrow a core's cache are made, used and forgotten head by head, forwards and backwards: a
    quarter less time than passes over the logits of all heads.
    """
    wide = jnp.promote_types(q.dtype, jnp.float32)
    q = q * (1.0 / math.sqrt(q.shape[-1]))
    bias = None if logit_bias is None else logit_bias.astype(wide)
    if q.shape[1] * k.shape[1] * wide.itemsize >= HEAD_BY_HEAD_BYTES:
        return _head_by_head(q, k, v, None if bias is None else jnp.broadcast_to(bias, (q.shape[0], *bias.shape)))
    q, k, v = (_swapped(x) for x in (q, k, v))
    logits = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=wide)
    weights = jax.nn.softmax(logits if bias is None else logits + bias[:, None], axis=-1).astype(v.dtype)
    return _swapped(jnp.einsum("bhqk,bhkd->bhqd", weights, v))


def _swapped(x: jax.Array) -> jax.Array:
    """[B, L, H, D] <-> [B, H, L, D]."""
    return x.transpose(0, 2, 1, 3)


@jax.custom_vjp
def _head_by_head(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Scaled q [B, Lq, H, D], k and v [B, Lk, H, D], bias [B, H, Lk] or None -> [B, Lq, H, D]."""
    return _forward(q, k, v, bias)[0]


def _forward(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None) -> tuple:
    heads = tuple(_swapped(x) for x in (q, k, v))
    out, normaliser = (checkpoint_name(part, NAME) for part in _over_heads(_one_head, *heads, bias))
    return _swapped(out), (*heads, bias, out, normaliser)


def _backward(kept: tuple, cotangent: jax.Array) -> tuple:
    *gradients, bias = _over_heads(_one_head_gradient, *kept, _swapped(cotangent))
    return *(_swapped(x) for x in gradients), bias


_head_by_head.defvjp(_forward, _backward)


def _over_heads(function: Callable, *operands: jax.Array | None) -> tuple:
    """Calls `function` for every sample and head in turn, operands and results [B, H, ...]."""
    batch, heads = operands[0].shape[:2]
    flat = jax.tree.map(lambda x: x.reshape(batch * heads, *x.shape[2:]), operands)
    results = jax.lax.map(lambda parts: function(*parts), flat)
    return jax.tree.map(lambda x: x.reshape(batch, heads, *x.shape[1:]), results)


def _logits(q: jax.Array, k: jax.Array, bias: jax.Array | None) -> jax.Array:
    logits = jnp.matmul(q, k.T, preferred_element_type=jnp.promote_types(q.dtype, jnp.float32))
    return logits if bias is None else logits + bias


def _one_head(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """(attended values [Lq, D], logarithm of the sum of exponentials [Lq])."""
    logits = _logits(q, k, bias)
    most = jnp.max(logits, axis=-1, keepdims=True)
    weights = jnp.exp(logits - most)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    out = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=weights.dtype) / total
    return out.astype(v.dtype), (most + jnp.log(total))[:, 0]


def _one_head_gradient(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None,
    out: jax.Array,
    normaliser: jax.Array,
    cotangent: jax.Array,
) -> tuple:
    """Gradients of q, k, v and bias from recomputed weights; the softmax's inner sum is the cotangent's share of `out`."""
    wide = normaliser.dtype
    weights = jnp.exp(_logits(q, k, bias) - normaliser[:, None])
    share = jnp.sum(cotangent.astype(wide) * out.astype(wide), axis=-1, keepdims=True)
    slopes = weights * (jnp.matmul(cotangent, v.T, preferred_element_type=wide) - share)
    narrow = slopes.astype(q.dtype)
    return (
        narrow @ k,
        narrow.T @ q,
        weights.astype(q.dtype).T @ cotangent,
        None if bias is None else jnp.sum(slopes, axis=0),
    )
