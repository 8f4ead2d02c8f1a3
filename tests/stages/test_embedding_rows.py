"""Embeddings within the step: rows of sound alone, in fixed shapes, from windows that move; and the stage that reads them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_model import tiny_networks

from spresso_jax.checkpoints.weights import Model, Network
from spresso_jax.diffusion_autoencoder.encoder import LatentEncoder, mostly_sound
from spresso_jax.stages.embedding_rows import compute_rows, draw_rows, moved, windows_needed
from spresso_jax.train.stage import Finished, Player, Stage


def test_windows_are_mostly_sound_or_hold_most_of_a_short_sound():
    frames = np.arange(12)
    weight = np.stack([frames < 12, frames < 6, frames < 1, frames < 0, frames >= 10]).astype(np.float16)
    expected = [[1, 1, 1], [1, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 1]]  # 6 of 12: the second window is half padding
    for given in (weight, jnp.asarray(weight)):
        np.testing.assert_array_equal(mostly_sound(given, 4), np.asarray(expected, bool))
    np.testing.assert_array_equal(mostly_sound(weight[1], 5), [True, False])


def test_rows_are_drawn_from_sound_only_and_taken_again_where_there_is_too_little():
    z = jnp.arange(24.0).reshape(4, 6, 1)
    for marked in (24, 12, 5, 1):
        sound = np.zeros(24, bool)
        sound[np.random.default_rng(marked).permutation(24)[:marked]] = True
        rows = np.asarray(draw_rows(jax.random.key(0), z, jnp.asarray(sound.reshape(4, 6))))[:, 0]
        assert rows.shape == (12,) and sound[rows.astype(int)].all()
        counts = np.bincount(rows.astype(int), minlength=24)[sound]
        assert np.count_nonzero(counts) == min(marked, 12) and counts.max() <= -(-12 // marked)
    other = np.asarray(draw_rows(jax.random.key(1), z, jnp.ones((4, 6), bool)))[:, 0]
    assert set(other) != set(np.asarray(draw_rows(jax.random.key(0), z, jnp.ones((4, 6), bool)))[:, 0])


def test_windows_move_within_the_sound_and_end_in_padding():
    count, sound = 300, 200
    weight = jnp.asarray(np.tile(np.arange(500) < sound, (count, 1)), jnp.float32).at[-1].set(1.0)
    latent = jnp.where(weight > 0, jnp.arange(500.0) + 1, 0.0)[..., None]
    new, weights = (np.asarray(x) for x in moved(jax.random.key(0), latent, weight, 4))
    np.testing.assert_array_equal(new[..., 0] > 0, weights > 0)
    starts = new[:, 0, 0] - 1
    assert starts[-1] == 0 and weights[-1].all()  # no padding to run into
    assert starts.max() < sound - 50 and 0.15 < np.mean(starts == 0) < 0.35
    row = int(np.argmax(starts))
    left = int(sound - starts[row])
    np.testing.assert_array_equal(new[row, :left, 0], np.arange(left) + starts[row] + 1)
    assert not new[row, left:].any()
    assert (np.asarray(moved(jax.random.key(0), latent, weight, 1)[0]) == np.asarray(latent)).all()


@pytest.fixture(scope="module")
def upstream():
    whole = tiny_networks(downsample=100)["latent_encoder"]
    linear = {name: whole.params[name] for name in ("audio_in", "to_embedding")}
    return Model({"latent_encoder": Network({**whole.config, "depth": 0}, linear)}, {})


def row_stage(seen):
    def loss(networks, product, batch, key):
        seen.append(batch["embedding"].shape)
        return jnp.mean(networks["quantizer"]["scale"] * batch["embedding"]), {}

    return Stage(
        name="rows",
        init=lambda key: {"quantizer": {"scale": jnp.ones(())}},
        players=(Player("rows", "^quantizer/", loss, optax.sgd(0.1)),),
        batch_spec={"embedding": jax.ShapeDtypeStruct((20, 64), jnp.float32)},
        start=lambda networks, draw: {"quantizer": {"scale": jnp.asarray(np.std(next(draw())["embedding"]))}},
        validate=lambda networks, batch, key: {"mean": jnp.mean(batch["embedding"], axis=0)},
        finish=lambda networks, draw: Finished({}, {"rows": len(next(draw())["embedding"])}),
    )


def test_a_stage_of_rows_reads_windows_of_latents_instead(upstream):
    seen, encoder = [], upstream.networks["latent_encoder"]
    stage = compute_rows(row_stage(seen), upstream, crops=2)
    assert windows_needed(20, 100) == 10 and windows_needed(8000, 9) == 297
    assert {name: spec.shape for name, spec in stage.batch_spec.items()} == {
        "latent": (10, 500, 128),
        "weight": (10, 500),
    }
    networks = {"quantizer": {"scale": jnp.ones(())}, **stage.upstream}
    rng = np.random.default_rng(0)
    weight = np.tile(np.arange(500) < 200, (10, 1)).astype(np.float32)  # two of five pooling windows
    batch = {"latent": 0.5 * rng.normal(size=(10, 500, 128)).astype(np.float32) * weight[..., None], "weight": weight}
    found = jax.jit(stage.validate)(networks, batch, jax.random.key(0))["mean"]
    apply = jax.jit(LatentEncoder(**encoder.config).apply)
    z = apply({"params": encoder.params}, batch["latent"])[:, :2].reshape(20, 64)
    np.testing.assert_allclose(found, z.mean(axis=0), rtol=1e-4, atol=1e-5)
    grads = jax.jit(jax.grad(lambda n: stage.players[0].loss(n, None, batch, jax.random.key(1))[0]))(networks)
    assert float(grads["quantizer"]["scale"]) != 0 and not any(
        g.any() for g in jax.tree.leaves(grads["latent_encoder"])
    )
    assert seen == [(20, 64)]

    closed = []

    def draw():
        try:
            yield {**batch, "valid": np.zeros(10)}
        finally:
            closed.append(True)

    assert float(stage.start(networks, draw)["quantizer"]["scale"]) == pytest.approx(float(jnp.std(z)), rel=0.3)
    assert stage.finish(networks, draw).facts == {"rows": 20} and closed == [True, True]
    assert stage.maintain is None
