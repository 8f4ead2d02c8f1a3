"""The contrastive objective of CLAP and the retrieval figures that show whether it worked."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array

# Stored as a logarithm, as in CLIP: exp gives 1 / 0.07 at the start; LAION clamps it at 100.
INITIAL_LOG_SCALE = math.log(1.0 / 0.07)
LARGEST_SCALE = 100.0


def shared_captions(tokens: Array, mask: Array) -> Array:
    """[B, B] bool: True where two clips have the same caption; tokens `[B, N]`, mask `[B, N]` as the tokenizer gives them."""
    kept = jnp.where(mask, tokens, -1)
    return (kept[:, None] == kept[None]).all(axis=-1)


def contrastive_loss(audio: Array, text: Array, scale: Array | float, shared: Array | None = None) -> Array:
    """Symmetric cross entropy of matching audio to text and text to audio within the batch.

    The batch is the global one under sharded jit, so all devices' clips are negatives of each other.

    Args:
      audio: `[B, E]`, unit rows.
      text: `[B, E]`, unit rows; row i belongs to audio row i.
      scale: factor on the cosines, exp(audio_log_scale); larger than 100 counts as 100.
      shared: `[B, B]` bool from `shared_captions`: clips with the same caption are then no negatives of each other. None
        takes every other clip as a negative, as LAION does; libraries whose captions repeat ("explosion") suffer from it.

    Returns:
      float32 scalar, the mean of both directions; ln B for embeddings that tell nothing.

    Raises:
      ValueError: if the shapes differ.

    Source: LAION-CLAP's training loss without its MLP option. (transformers' `return_loss` takes text-to-audio twice.)
    """
    if audio.shape != text.shape or audio.ndim != 2:
        raise ValueError(f"audio and text embeddings must both be [B, E], got {audio.shape} and {text.shape}")
    logits = jnp.minimum(scale, LARGEST_SCALE) * _cosines(audio, text, shared)
    to_text = -jnp.diagonal(jax.nn.log_softmax(logits, axis=1))
    to_audio = -jnp.diagonal(jax.nn.log_softmax(logits, axis=0))
    return 0.5 * (to_text.mean() + to_audio.mean())


def _cosines(audio: Array, text: Array, shared: Array | None) -> Array:
    cosines = jnp.matmul(audio, text.T, precision="highest")
    if shared is None:
        return cosines
    # Far below any cosine, yet finite: an infinity would make the gradient of a masked row NaN.
    return jnp.where(shared & ~jnp.eye(len(audio), dtype=bool), -1e4, cosines)


def retrieval_recall(
    audio: Array, text: Array, ks: tuple[int, ...] = (1, 5, 10), shared: Array | None = None
) -> dict[str, Array]:
    """Share of clips whose partner is among the k nearest, both ways.

    A tie takes the mean of the tied ranks, so embeddings that are all equal score as chance and not as perfect.

    Args:
      audio: `[B, E]`, unit rows.
      text: `[B, E]`, unit rows; row i belongs to audio row i.
      ks: the depths.
      shared: as in `contrastive_loss`: clips with the same caption are not rivals.

    Returns:
      {"audio_to_text_recall@k": ..., "text_to_audio_recall@k": ...}, scalars in 0..1.
    """
    cosines = _cosines(audio, text, shared)
    recalls = {}
    for name, scores in (("audio_to_text", cosines), ("text_to_audio", cosines.T)):
        own = jnp.diagonal(scores)[:, None]
        rank = (scores > own).sum(axis=1) + 0.5 * ((scores == own).sum(axis=1) - 1)
        for k in ks:
            recalls[f"{name}_recall@{k}"] = (rank < k).mean()
    return recalls
