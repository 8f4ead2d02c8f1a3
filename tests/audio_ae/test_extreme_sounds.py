"""Silence, clicks, DC, full scale and clipping: finite everywhere, in coding and in training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spresso_jax.audio_ae.autoencoder import AudioAutoencoder
from spresso_jax.audio_ae.transforms import training_transform
from spresso_jax.configuration import load_config, to_plain
from spresso_jax.stages import registry
from spresso_jax.train.loop import prepare
from spresso_jax.train.mesh import make_mesh
from spresso_jax.train.update import make_update

SAMPLES = 24_000


def extreme_sounds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    time = np.arange(SAMPLES) / 48_000
    click = np.zeros(SAMPLES)
    click[SAMPLES // 2] = 1.0
    noise = rng.normal(size=SAMPLES)
    tone = np.sin(2 * np.pi * 441.0 * time)
    sounds = {
        "silence": np.zeros(SAMPLES),
        "click": click,
        "click at the first sample": np.roll(click, -SAMPLES // 2),
        "dc": np.ones(SAMPLES),
        "full-scale noise": rng.uniform(-1.0, 1.0, SAMPLES),
        "square at Nyquist": (-1.0) ** np.arange(SAMPLES),
        "clipped noise": np.clip(20.0 * noise, -1.0, 1.0),
        "clipped tone": np.clip(10.0 * tone, -1.0, 1.0),
        "over full scale": 4.0 * tone,
        "one bit of 16": np.round(0.6 * tone) / 32768.0,
        "below 16 bits": 1e-7 * noise,
        "denormal": 1e-40 * noise,
        "burst in silence": np.where(np.abs(time - 0.2) < 0.001, noise, 0.0),
    }
    return {name: sound.astype(np.float32) for name, sound in sounds.items()}


SOUNDS = extreme_sounds()
BATCH = np.stack(list(SOUNDS.values()))[..., None]


@pytest.mark.parametrize("preset", ["paper", "woosh", "small"])
def test_extreme_sounds_come_back_finite(preset):
    size = {"dim": 16, "intermediate": 32, "encoder_blocks": 1, "decoder_blocks": 1}
    module = AudioAutoencoder(**to_plain(load_config(f"audio_ae:{preset}").model) | size)
    params = jax.jit(module.init)(jax.random.key(0), BATCH[:1])["params"]
    encode = jax.jit(lambda p, x: module.apply({"params": p}, x, method="encode"))
    decode = jax.jit(lambda p, z: module.apply({"params": p}, z, method="decode"))
    latent = encode(params, BATCH)
    decoded = decode(params, latent)
    for name, z, x in zip(SOUNDS, latent, decoded, strict=True):
        assert np.isfinite(z).all() and np.isfinite(x).all(), name
        assert np.abs(x).max() < 1e3, name


def test_dacs_augmentation_keeps_extreme_sounds_finite_and_below_full_scale():
    sounds = jax.jit(training_transform)(jax.random.key(0), BATCH)
    for name, x in zip(SOUNDS, sounds, strict=True):
        assert np.isfinite(x).all() and np.abs(x).max() < 2.0, name


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("changes", [(), ("model.linear_start=false", "model.level_channels=0")])
def test_ten_thousand_steps_on_extreme_sounds_have_no_refused_update(changes):
    """Both players of the tiny preset, with the linear start and with networks alone; no gradient may be lost to NaN."""
    config = load_config("audio_ae:tiny", ["loop.steps=10000", *changes])
    stage = registry.build("audio_ae", config, None)
    state, frozen = prepare(stage, 0, make_mesh(), lambda step: iter(()))
    update = make_update(stage)
    bank = jnp.asarray(BATCH)

    def step(state, _):
        key = jax.random.fold_in(jax.random.key(7), state.step)
        which = jax.random.randint(key, (config.data.batch_size,), 0, len(bank))
        gain = 10.0 ** jax.random.uniform(
            jax.random.fold_in(key, 1), (config.data.batch_size, 1, 1), minval=-3.0, maxval=0.0
        )
        batch = {"audio": bank[which] * gain, "valid": jnp.full(config.data.batch_size, SAMPLES)}
        state, metrics = update(state, frozen, batch)
        return state, metrics["generator/mel"]

    run = jax.jit(lambda state: jax.lax.scan(step, state, length=500), donate_argnums=0)
    for _ in range(20):
        state, mel = run(state)
        assert np.isfinite(mel).all()
    assert int(state.step) == 10_000 and int(state.skipped) == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    stage.validate({**state.params, **frozen}, {"audio": bank}, jax.random.key(0))
