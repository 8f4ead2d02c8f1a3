"""Stage 2, CLAP: audio and text towers trained contrastively on the user's captions.

Source: S-PRESSO 4.2.1 ("a CLAP encoder trained on our datasets"); LAION-CLAP (towers, symmetric loss).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from spresso_jax.clap.contrastive import contrastive_loss, retrieval_recall, shared_captions
from spresso_jax.clap.front_ends import log_mel_features
from spresso_jax.clap.htsat import input_statistics
from spresso_jax.clap.model import Clap
from spresso_jax.clap.text_conditioner import TextConditioner
from spresso_jax.configuration import to_plain
from spresso_jax.shapes import whole_hops
from spresso_jax.train.optimizers import adamw_from
from spresso_jax.train.stage import Batch, Finished, Metrics, Player, Stage, Tree

NETWORK = "clap"
STATISTICS_BATCHES = 8


def build(config: Any, upstream: Any = None) -> Stage:
    """The stage of `experiments/clap.py`; an upstream model's `clap`, if given, is where training starts."""
    fields = to_plain(config.model)
    clap = Clap(**fields)
    tokens = config.text_tokens
    samples = whole_hops(config.data.seconds)

    def init(key: jax.Array) -> Tree:
        text = jnp.zeros((1, tokens), jnp.int32), jnp.ones((1, tokens), bool)
        return {NETWORK: clap.init(key, jnp.zeros((1, samples, 1)), *text)["params"]}

    def start(networks: Tree, draw: Callable[[], Iterator[dict]]) -> Tree:
        """Stores the mean and spread of the training spectrograms, which normalise every input from then on."""
        if NETWORK in inherited:
            return networks
        batches = draw()
        audio = [jnp.asarray(next(batches)["audio"]) for _ in range(STATISTICS_BATCHES)]
        features = jnp.concatenate([log_mel_features(rows, clap.front_end()) for rows in audio])
        tower = dict(networks[NETWORK]["audio_tower"])
        tower["input_norm"] = {**tower["input_norm"], **input_statistics(features, clap.input_norm)}
        return {**networks, NETWORK: {**networks[NETWORK], "audio_tower": tower}}

    def loss(networks: Tree, product: None, batch: Batch, key: jax.Array) -> tuple[jax.Array, Metrics]:
        audio = _gained(key, batch["audio"], config.gain_db)
        out = clap.apply({"params": networks[NETWORK]}, audio, batch["tokens"], batch["text_mask"])
        shared = shared_captions(batch["tokens"], batch["text_mask"])
        return contrastive_loss(out.audio, out.text, out.audio_scale, shared), {"scale": out.audio_scale}

    def validate(networks: Tree, batch: Batch, key: jax.Array) -> Metrics:
        out = clap.apply({"params": networks[NETWORK]}, batch["audio"], batch["tokens"], batch["text_mask"])
        shared = shared_captions(batch["tokens"], batch["text_mask"])
        recalls = retrieval_recall(out.audio, out.text, ks=(1, 5), shared=shared)
        return {"loss": contrastive_loss(out.audio, out.text, out.audio_scale, shared), **recalls}

    def finish(networks: Tree, draw: Callable[[], Iterator[dict]]) -> Finished:
        return Finished({NETWORK: (fields, networks[NETWORK])})

    size = config.data.batch_size
    before = None if upstream is None else upstream.networks.get(NETWORK)
    # A text tower alone is replaced, not trained on: it has no audio tower beside it.
    inherited = {} if before is None or before.class_name == TextConditioner.__name__ else {NETWORK: before.params}
    return Stage(
        name="clap",
        init=init,
        # The stored input statistics are data, not weights: no player owns them.
        players=(
            Player("clap", rf"^{NETWORK}/(?!.*input_norm)", loss, adamw_from(config.optimizer, config.loop.steps)),
        ),
        batch_spec={
            "audio": jax.ShapeDtypeStruct((size, samples, 1), jnp.float32),
            "valid": jax.ShapeDtypeStruct((size,), jnp.int32),
            "tokens": jax.ShapeDtypeStruct((size, tokens), jnp.int32),
            "text_mask": jax.ShapeDtypeStruct((size, tokens), bool),
        },
        upstream=inherited,
        start=start,
        ema={"average": lambda step: jnp.minimum(config.ema_decay, (1.0 + step) / (10.0 + step))},
        chosen_ema="average",
        validate=validate,
        finish=finish,
    )


def _gained(key: jax.Array, audio: jax.Array, gain_db: float) -> jax.Array:
    """A random gain for every clip, uniform in dB: loudness does not say what a sound is."""
    gain = jax.random.uniform(key, (audio.shape[0], 1, 1), minval=-gain_db, maxval=gain_db)
    return audio * 10.0 ** (gain / 20.0)
