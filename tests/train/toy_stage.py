"""Two small stages on made-up vectors: ordinary training, and a GAN whose generator must run once a step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from spresso_jax.train.stage import Finished, Player, Produce, Stage

SIZE = 4


def batches(step):
    """Endless batches; batch k is a function of k."""
    while True:
        rng = np.random.default_rng(step)
        x = rng.normal(size=(8, SIZE)).astype(np.float32)
        yield {"x": x, "y": (x @ np.arange(1.0, SIZE + 1).astype(np.float32))[:, None]}
        step += 1


def validation():
    stream = batches(10_000)
    yield from (next(stream) for _ in range(2))


def regression(*, upstream=None, optimizer=None, noise=1e-3):
    """Linear regression with a fixed buffer and one moving average."""

    def init(key):
        return {"net": {"kernel": 0.1 * jax.random.normal(key, (SIZE, 1)), "offset": jnp.ones((1,))}}

    def loss(networks, product, batch, key):
        jitter = noise * jax.random.normal(key, batch["y"].shape)
        error = batch["x"] @ networks["net"]["kernel"] + 0.0 * networks["net"]["offset"] - batch["y"] + jitter
        return jnp.mean(jnp.square(error)), {"abs": jnp.mean(jnp.abs(error))}

    return Stage(
        name="regression",
        init=init,
        players=(Player("net", "kernel", loss, optimizer or optax.adam(0.05)),),
        batch_spec={
            "x": jax.ShapeDtypeStruct((8, SIZE), jnp.float32),
            "y": jax.ShapeDtypeStruct((8, 1), jnp.float32),
        },
        upstream=upstream or {},
        ema={"mean": lambda step: 1.0 - 1.0 / step},
        chosen_ema="mean",
        validate=lambda networks, batch, key: {"loss": loss(networks, None, batch, key)[0]},
        preview=lambda networks, batch, key: {"decoded_0": jnp.zeros(480)},
        finish=lambda networks, draw: Finished({"net": ({}, networks["net"])}),
    )


def gan(seen):
    """`seen` collects one entry whenever the generator's forward pass is traced."""

    def make(networks, batch, key):
        seen.append("forward")
        return batch["x"] @ networks["generator"]["kernel"]

    def critic(networks, fake, batch, key):
        score = networks["critic"]["scale"] * jnp.mean(fake)
        return jnp.square(score - 1.0), {"score": score}

    def generator(networks, fake, batch, key):
        return jnp.mean(jnp.square(fake - batch["y"])) * networks["critic"]["scale"], {}

    return Stage(
        name="gan",
        init=lambda key: {"generator": {"kernel": jnp.ones((SIZE, 1))}, "critic": {"scale": jnp.asarray(2.0)}},
        players=(
            Player("critic", "^critic/", critic, optax.sgd(0.1)),
            Player("generator", "^generator/", generator, optax.sgd(0.01)),
        ),
        batch_spec=regression().batch_spec,
        produce=Produce("generator", make),
        validate=lambda networks, batch, key: {},
        finish=lambda networks, draw: Finished({}),
    )
