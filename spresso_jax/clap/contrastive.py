"""The contrastive objective of CLAP and the retrieval figures that show whether it worked."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array

# Stored as a logarithm, as in CLIP: exp gives 1 / 0.07 at the start; LAION clamps it at 100.
INITIAL_LOG_SCALE = math.log(1.0 / 0.07)
LARGEST_SCALE = 100.0


def contrastive_loss(audio: Array, text: Array, scale: Array | float) -> Array:
    """Symmetric cross entropy of matching audio to text and text to audio within the batch.

    The batch is the global one under sharded jit, so all devices' clips are negatives of each other.

    Args:
      audio: `[B, E]`, unit rows.
      text: `[B, E]`, unit rows; row i belongs to audio row i.
      scale: factor on the cosines, exp(audio_log_scale); larger than 100 counts as 100.

    Returns:
      float32 scalar, the mean of both directions; ln B for embeddings that tell nothing.

    Raises:
      ValueError: if the shapes differ.

    Source: LAION-CLAP's training loss without its MLP option. (transformers' `return_loss` takes text-to-audio twice.)
    """
    if audio.shape != text.shape or audio.ndim != 2:
        raise ValueError(f"audio and text embeddings must both be [B, E], got {audio.shape} and {text.shape}")
    logits = jnp.minimum(scale, LARGEST_SCALE) * jnp.matmul(audio, text.T, precision="highest")
    to_text = -jnp.diagonal(jax.nn.log_softmax(logits, axis=1))
    to_audio = -jnp.diagonal(jax.nn.log_softmax(logits, axis=0))
    return 0.5 * (to_text.mean() + to_audio.mean())


def retrieval_recall(audio: Array, text: Array, ks: tuple[int, ...] = (1, 5, 10)) -> dict[str, Array]:
    """Share of clips whose partner is among the k nearest, both ways.

    A tie takes the mean of the tied ranks, so embeddings that are all equal score as chance and not as perfect.

    Args:
      audio: `[B, E]`, unit rows.
      text: `[B, E]`, unit rows; row i belongs to audio row i.
      ks: the depths.

    Returns:
      {"audio_to_text_recall@k": ..., "text_to_audio_recall@k": ...}, scalars in 0..1.
    """
    cosines = jnp.matmul(audio, text.T, precision="highest")
    recalls = {}
    for name, scores in (("audio_to_text", cosines), ("text_to_audio", cosines.T)):
        own = jnp.diagonal(scores)[:, None]
        rank = (scores > own).sum(axis=1) + 0.5 * ((scores == own).sum(axis=1) - 1)
        for k in ks:
            recalls[f"{name}_recall@{k}"] = (rank < k).mean()
    return recalls
