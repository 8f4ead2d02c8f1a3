"""Stage 1, AudioAE: the 48 kHz autoencoder against DAC's discriminators.

Source: S-PRESSO 3.2 and 4.2.1; DAC (losses, order of the two players, optimisation).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spresso_jax.audio_ae.autoencoder import AudioAutoencoder
from spresso_jax.audio_ae.discriminators import Discriminator
from spresso_jax.audio_ae.losses import (
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
    multi_scale_log_mel,
    multi_scale_mel_loss,
    split_maps,
    waveform_error_db,
)
from spresso_jax.audio_ae.statistics import LatentStatistics
from spresso_jax.audio_ae.transforms import training_transform
from spresso_jax.configuration import to_plain
from spresso_jax.shapes import HOP, whole_hops
from spresso_jax.train.optimizers import adamw_from
from spresso_jax.train.stage import Batch, Finished, Metrics, Player, Produce, Stage, Tree

NETWORK = "audio_ae"
SILENCE = 1e-3


def build(config: Any, upstream: Any = None) -> Stage:
    """The stage of `experiments/audio_ae.py`; an upstream model's `audio_ae`, if given, is where training starts."""
    fields = to_plain(config.model)
    autoencoder = AudioAutoencoder(**fields)
    discriminator = Discriminator(**to_plain(config.discriminator))
    samples = whole_hops(config.data.seconds)
    weights, augment = config.loss, to_plain(config.augment)
    schedules = _schedules(config)

    def reconstruct(networks: Tree, audio: jax.Array, key: jax.Array | None = None) -> jax.Array:
        gain = networks["schedule"]["linear_path"] if "linear_path" in schedules else None
        return autoencoder.apply({"params": networks[NETWORK]}, audio, key, gain)

    def init(key: jax.Array) -> Tree:
        generator_key, discriminator_key = jax.random.split(key)
        audio = jnp.zeros((1, samples, 1))
        return {
            NETWORK: autoencoder.init(generator_key, audio)["params"],
            "discriminator": discriminator.init(discriminator_key, audio)["params"],
        }

    def judge(networks: Tree, audio: jax.Array) -> list:
        return discriminator.apply({"params": networks["discriminator"]}, audio)

    def excerpts(key: jax.Array, real: jax.Array, fake: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What the discriminators get to see: everything, unless the config asks for a few rows and a random window."""
        rows, length = config.adversary.rows or real.shape[0], whole_hops(config.adversary.seconds) or samples
        start = jax.random.randint(key, (), 0, samples - length + 1)
        real, fake = (jax.lax.dynamic_slice_in_dim(audio[:rows], start, length, axis=1) for audio in (real, fake))
        return real, fake

    def make(networks: Tree, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        """The augmented sound and its reconstruction, which both players judge."""
        augment_key, noise_key = jax.random.split(key)
        real = training_transform(augment_key, batch["audio"], **augment)
        return {"real": real, "fake": reconstruct(networks, real, noise_key)}

    def discriminator_player(networks: Tree, product: Tree, batch: Batch, key: jax.Array):
        seen = jnp.concatenate(excerpts(key, product["real"], product["fake"]))
        real_maps, fake_maps = split_maps(judge(networks, seen))
        return discriminator_loss(real_maps, fake_maps), {}

    def generator_player(networks: Tree, product: Tree, batch: Batch, key: jax.Array):
        real, fake = product["real"], product["fake"]
        # Two passes, unlike the discriminator's one: its backward pass would run over the real half too, for nothing.
        real_maps, fake_maps = (judge(networks, seen) for seen in excerpts(key, real, fake))
        parts = {
            "mel": multi_scale_mel_loss(fake, real_log_mel=multi_scale_log_mel(real)),
            "feature_matching": feature_matching_loss(real_maps, fake_maps),
            "adversarial": adversarial_loss(fake_maps),
            "waveform_db": waveform_error_db(fake, real),
        }
        adversary = networks["schedule"]["adversary"] if "adversary" in schedules else 1.0
        scale = {"feature_matching": adversary, "adversarial": adversary}
        return sum(weights[name] * scale.get(name, 1.0) * value for name, value in parts.items()), parts

    def validate(networks: Tree, batch: Batch, key: jax.Array) -> Metrics:
        real = batch["audio"]
        fake = reconstruct(networks, real)
        return {
            "mel": multi_scale_mel_loss(fake, real),
            "waveform_db": waveform_error_db(fake, real),
            "si_sdr": jnp.mean(_si_sdr(real[..., 0], fake[..., 0])),
        }

    def preview(networks: Tree, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        real = batch["audio"][:4]
        fake = reconstruct(networks, real)
        return {
            f"{name}_{i}": audio[i, :, 0]
            for i in range(real.shape[0])
            for name, audio in (("source", real), ("decoded", fake))
        }

    # An annealed model is the one at the end of the schedule, so `best` is off for it: earlier steps had more of the path.
    final_fields = fields | ({"linear_path_gain": 0.0} if "linear_path" in schedules else {})
    final = AudioAutoencoder(**final_fields)

    def finish(networks: Tree, draw: Callable[[], Iterator[dict]]) -> Finished:
        statistics = LatentStatistics(autoencoder.latent_channels)
        encode = jax.jit(lambda params, audio: final.apply({"params": params}, audio, method="encode"))
        batches = draw()
        for _ in range(config.statistics_batches):
            batch = next(batches)
            latent = np.asarray(encode(networks[NETWORK], batch["audio"]))
            # Padding and silence are one constant vector; counting them would shrink the spread of real sound.
            sound = np.arange(latent.shape[1])[None] * HOP < np.asarray(batch["valid"])[:, None]
            heard = sound & _audible(np.asarray(batch["audio"]), latent.shape[1])
            # Sounds may all be that quiet: better their statistics than none after a whole training.
            statistics.update(latent, heard if heard.any() else sound)
        facts = {"latent_statistics": statistics.to_facts()}
        return Finished({NETWORK: (final_fields, networks[NETWORK])}, facts)

    frozen = {} if upstream is None or NETWORK not in upstream.networks else upstream.networks[NETWORK].params
    steps = config.loop.steps
    critic = config.optimizer.copy_and_resolve_references()
    with critic.unlocked():
        critic.clip_norm = config.discriminator_clip_norm
    spec = {
        "audio": jax.ShapeDtypeStruct((config.data.batch_size, samples, 1), jnp.float32),
        "valid": jax.ShapeDtypeStruct((config.data.batch_size,), jnp.int32),
    }
    return Stage(
        name="audio_ae",
        init=init,
        players=(
            Player("discriminator", r"^discriminator/", discriminator_player, adamw_from(critic, steps)),
            Player("generator", rf"^{NETWORK}/", generator_player, adamw_from(config.optimizer, steps)),
        ),
        produce=Produce("generator", make),
        batch_spec=spec,
        upstream={NETWORK: frozen} if frozen else {},
        schedules=schedules,
        ema={"generator": lambda step: jnp.minimum(config.ema_decay, (1.0 + step) / (10.0 + step))},
        chosen_ema="generator",
        averaged=rf"^{NETWORK}/",
        best="mel" if config.keep_best and "linear_path" not in schedules else None,
        validate=validate,
        preview=preview,
        finish=finish,
    )


def _schedules(config: Any) -> dict[str, Callable[[jax.Array], jax.Array]]:
    """The weight of both adversarial losses, and the gain of the linear path, where the config changes them with time.

    Raises:
      ValueError: if the linear path is to be annealed where there is none, or past the last step.
    """
    schedules: dict[str, Callable[[jax.Array], jax.Array]] = {}
    first, ramp = config.adversary.first_step, config.adversary.ramp_steps
    if first or ramp:
        schedules["adversary"] = lambda step: jnp.clip((step - first + 1) / max(ramp, 1), 0.0, 1.0)
    if config.anneal_steps:
        if not config.model.linear_start or config.model.level_channels:
            raise ValueError("anneal_steps needs model.linear_start and no model.level_channels: else nothing can replace it")
        if config.anneal_steps >= config.loop.steps:
            raise ValueError(f"anneal_steps {config.anneal_steps} must end before loop.steps {config.loop.steps}")
        schedules["linear_path"] = lambda step: jnp.clip(1.0 - step / config.anneal_steps, 0.0, 1.0)
    return schedules


def _audible(audio: np.ndarray, frames: int) -> np.ndarray:
    """Which latent frames of `[B, S, 1]` hold sound above -60 dBFS (rms of the hop): bool `[B, frames]`."""
    level = np.sqrt(np.square(audio.reshape(len(audio), -1, HOP)).mean(-1)) > SILENCE
    return np.pad(level, ((0, 0), (0, frames - level.shape[1])))


def _si_sdr(reference: jax.Array, estimate: jax.Array) -> jax.Array:
    """SI-SDR in dB of [B, S] signals, for a training log; evaluate/reconstruction.py has the float64 figure."""
    reference = reference - jnp.mean(reference, -1, keepdims=True)
    estimate = estimate - jnp.mean(estimate, -1, keepdims=True)
    energy = jnp.sum(jnp.square(reference), -1) + 1e-8
    target = (jnp.sum(reference * estimate, -1) / energy)[:, None] * reference
    noise = jnp.sum(jnp.square(estimate - target), -1) + 1e-8
    return 10.0 * jnp.log10((jnp.sum(jnp.square(target), -1) + 1e-8) / noise)
