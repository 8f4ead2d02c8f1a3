"""The whole CLAP network: plain config, unit embeddings, and that it learns to match sounds with captions."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from spresso_jax.clap.contrastive import contrastive_loss, retrieval_recall
from spresso_jax.clap.model import Clap

TINY = {
    "audio_width": 16,
    "audio_depths": [2, 1],
    "audio_heads": [2, 4],
    "image_size": 64,
    "mel_bins": 32,
    "samples": 48_000,
    "hop": 480,
    "input_norm": "fixed",
    "vocabulary": 40,
    "text_width": 32,
    "text_layers": 1,
    "text_heads": 2,
    "text_mlp_width": 64,
    "text_positions": 10,
    "channels": 32,
}
PAIRS = 8


def tones_and_tokens():
    """Eight tones between 200 Hz and 10 kHz; the caption of tone i is the single token 3 + i."""
    time = np.arange(48_000) / 48_000
    pitch = np.geomspace(200.0, 10_000.0, PAIRS)
    audio = 0.3 * np.sin(2 * np.pi * pitch[:, None] * time)[..., None]
    tokens = np.stack([np.array([0, 3 + i, 2, 1]) for i in range(PAIRS)])
    return audio.astype(np.float32), tokens.astype(np.int32)


@pytest.fixture(scope="module")
def model():
    audio, tokens = tones_and_tokens()
    module = Clap(**json.loads(json.dumps(TINY)))
    return module, jax.jit(module.init)(jax.random.key(0), audio[:1], tokens[:1], tokens[:1] != 1)


def test_embeddings_have_unit_length_and_methods_agree_with_the_call(model):
    module, variables = model
    audio, tokens = tones_and_tokens()
    both = jax.jit(module.apply)(variables, audio, tokens, tokens != 1)
    states, text = jax.jit(partial(module.apply, method="encode_text"))(variables, tokens, tokens != 1)
    assert states.shape == (PAIRS, 4, 32) and both.audio.shape == text.shape == (PAIRS, 32)
    np.testing.assert_allclose(np.linalg.norm(both.audio, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(text, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(both.text, text, atol=1e-6)
    assert both.audio_scale == pytest.approx(1 / 0.07) and both.text_scale == pytest.approx(1 / 0.07)
    alone = jax.jit(partial(module.apply, method="encode_audio"))(variables, audio[3:4])
    np.testing.assert_allclose(both.audio[3:4], alone, atol=1e-5)


def test_bfloat16_products_change_little_and_parameters_stay_float32(model):
    module, variables = model
    audio, tokens = tones_and_tokens()
    coarse = Clap(**TINY, dtype="bfloat16")
    rough = jax.jit(coarse.apply)(variables, audio, tokens, tokens != 1)
    fine = jax.jit(module.apply)(variables, audio, tokens, tokens != 1)
    assert rough.audio.dtype == rough.text.dtype == jnp.float32
    assert (rough.audio * fine.audio).sum(axis=1).min() > 0.99 and (rough.text * fine.text).sum(axis=1).min() > 0.99
    made = jax.eval_shape(coarse.init, jax.random.key(0), audio, tokens, tokens != 1)
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype("float32")}


def test_a_short_training_finds_every_partner(model):
    module, variables = model
    audio, tokens = tones_and_tokens()
    optimizer = optax.adam(optax.warmup_cosine_decay_schedule(0.0, 3e-3, 10, 50))

    @jax.jit
    def step(params, state):
        def loss_of(params):
            out = module.apply({"params": params}, audio, tokens, tokens != 1)
            return contrastive_loss(out.audio, out.text, out.audio_scale), out

        (loss, out), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, loss, out

    params = variables["params"]
    state = optimizer.init(params)
    for _ in range(50):
        params, state, loss, out = step(params, state)
    assert loss < 0.5 < np.log(PAIRS)
    assert retrieval_recall(out.audio, out.text, ks=(1,))["text_to_audio_recall@1"] == 1.0
