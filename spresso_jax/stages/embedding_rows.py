"""Embeddings z computed within the step: a stage that reads rows of z becomes one that reads windows of cached latents.

Windows are fresh in every epoch, and no embeddings lie on the disk. g_psi is frozen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spresso_jax.diffusion_autoencoder.encoder import LatentEncoder, mostly_sound
from spresso_jax.shapes import CLIP_FRAMES, pooled_length
from spresso_jax.train.stage import Batch, Stage, Tree

NETWORK = "latent_encoder"


def rows_taken(pooled: int) -> int:
    """Rows of a batch for each window of `pooled` embeddings: half of them.

    Sounds are shorter than five seconds as a rule; where they leave less than this, rows are taken twice. A whole number,
    so that rows divide over devices as windows do.
    """
    return max(pooled // 2, 1)


def windows_needed(rows: int, downsample: int) -> int:
    """Windows of 500 latent frames of which a batch of `rows` embeddings is taken."""
    return -(-rows // rows_taken(pooled_length(CLIP_FRAMES, downsample)))


def compute_rows(stage: Stage, upstream: Any, crops: int) -> Stage:
    """The same stage on batches of "latent" [N, 500, 128] and "weight" [N, 500] instead of "embedding" [R, D].

    R is half of the pooling windows of a batch, whatever its size (`rows_taken`).

    Args:
      stage: whose batches hold "embedding" and nothing else.
      upstream: loaded model with latent_encoder.
      crops: one window in so many begins where the sound begins, as among stored embeddings; the others where they like.
    """
    network = upstream.networks[NETWORK]
    encoder = LatentEncoder(**network.config)

    def rows(networks: Tree, batch: Batch, key: jax.Array, moving: bool = True) -> dict[str, jax.Array]:
        move_key, draw_key = jax.random.split(key)
        latent, weight = batch["latent"], batch["weight"]
        if moving:
            latent, weight = moved(move_key, latent, weight, crops)
        z = jax.lax.stop_gradient(encoder.apply({"params": networks[NETWORK]}, latent))
        return {"embedding": draw_rows(draw_key, z, mostly_sound(weight, encoder.downsample))}

    compiled = jax.jit(rows)

    def drawn(draw: Callable[[], Iterator[dict]]) -> Callable[[], Iterator[dict]]:
        def batches() -> Iterator[dict]:
            # Frozen, so the same as in the networks; and whole on this process, as its batches are.
            source, params = draw(), jax.device_put({NETWORK: network.params})
            try:
                for number, batch in enumerate(source):
                    key = jax.random.fold_in(jax.random.key(0), number)
                    held = {name: np.asarray(batch[name]) for name in ("latent", "weight")}
                    yield jax.tree.map(np.asarray, compiled(params, held, key))
            finally:
                if hasattr(source, "close"):
                    source.close()

        return batches

    def player(one: Any) -> Any:
        def loss(networks: Tree, product: Any, batch: Batch, key: jax.Array) -> Any:
            rows_key, loss_key = jax.random.split(key)
            return one.loss(networks, product, rows(networks, batch, rows_key), loss_key)

        return dataclasses.replace(one, loss=loss)

    (count, _) = stage.batch_spec["embedding"].shape
    windows = windows_needed(count, encoder.downsample)
    start, maintain = stage.start, stage.maintain
    return dataclasses.replace(
        stage,
        players=tuple(player(one) for one in stage.players),
        batch_spec={
            "latent": jax.ShapeDtypeStruct((windows, CLIP_FRAMES, encoder.latent_channels), jnp.float32),
            "weight": jax.ShapeDtypeStruct((windows, CLIP_FRAMES), jnp.float32),
        },
        upstream={**stage.upstream, NETWORK: network.params},
        start=start and (lambda networks, draw: start(networks, drawn(draw))),
        maintain=maintain and (lambda networks, draw, key: maintain(networks, drawn(draw), key)),
        validate=lambda networks, batch, key: stage.validate(networks, rows(networks, batch, key, moving=False), key),
        finish=lambda networks, draw: stage.finish(networks, drawn(draw)),
    )


def moved(key: jax.Array, latent: jax.Array, weight: jax.Array, crops: int) -> tuple[jax.Array, jax.Array]:
    """Windows whose start is moved into the sound, where there is padding behind it to run into.

    So a codeword sees sounds at any phase of the pooling grid, as with stored embeddings.

    Args:
      key: random key.
      latent, weight: [N, T, C] and [N, T].
      crops: one window in so many stays where it is.
    """
    count, frames = weight.shape
    sound = jnp.count_nonzero(weight, axis=1)
    stay_key, start_key = jax.random.split(key)
    stay = jax.random.uniform(stay_key, (count,)) < 1.0 / crops
    latest = jnp.maximum(sound - CLIP_FRAMES // 10, 1)
    start = jnp.floor(jax.random.uniform(start_key, (count,)) * latest).astype(jnp.int32)
    start = jnp.where(stay | (weight[:, -1] > 0), 0, start)
    # Past the end comes the last frame, which is padding, never the beginning.
    index = jnp.minimum(start[:, None] + jnp.arange(frames), frames - 1)
    return jnp.take_along_axis(latent, index[..., None], axis=1), jnp.take_along_axis(weight, index, axis=1)


def draw_rows(key: jax.Array, z: jax.Array, sound: jax.Array) -> jax.Array:
    """N * rows_taken(F) of the rows of z [N, F, D], drawn without replacement from those that `sound` [N, F] marks.

    Where fewer are marked, they are taken again in the same order, so that shapes are fixed and padding has no say.
    """
    marked = sound.reshape(-1)
    order = jnp.argsort(jnp.where(marked, jax.random.uniform(key, marked.shape), 2.0))
    count = z.shape[0] * rows_taken(z.shape[1])
    return z.reshape(-1, z.shape[-1])[order[jnp.arange(count) % jnp.maximum(jnp.sum(marked), 1)]]
