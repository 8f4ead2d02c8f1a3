"""Stage 2, CLAP: audio and text towers trained contrastively on the user's captions.

Source: S-PRESSO 4.2.1 ("a CLAP encoder trained on our datasets"); LAION-CLAP (towers, symmetric loss).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spresso_jax.clap.augmentation import (
    change_gain,
    drop_tokens,
    mask_stripes,
    repeat_sound,
    shift_sound,
    tilt_spectrum,
)
from spresso_jax.clap.contrastive import contrastive_loss, retrieval_recall, shared_captions
from spresso_jax.clap.front_ends import log_mel_features
from spresso_jax.clap.htsat import input_statistics
from spresso_jax.clap.model import Clap
from spresso_jax.configuration import to_plain
from spresso_jax.shapes import whole_hops
from spresso_jax.train.optimizers import adamw_from
from spresso_jax.train.stage import Batch, Finished, Metrics, Player, Stage, Tree

NETWORK = "clap"
STATISTICS_BATCHES = 8
RECALL_AT = (1, 5, 10)


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
        drawn = [next(batches) for _ in range(STATISTICS_BATCHES)]
        heard = [repeat_sound(jnp.asarray(rows["audio"]), jnp.asarray(rows["valid"])) for rows in drawn]
        features = jnp.concatenate([log_mel_features(audio, clap.front_end()) for audio in heard])
        tower = dict(networks[NETWORK]["audio_tower"])
        tower["input_norm"] = {**tower["input_norm"], **input_statistics(features, clap.input_norm)}
        return {**networks, NETWORK: {**networks[NETWORK], "audio_tower": tower}}

    def loss(networks: Tree, product: None, batch: Batch, key: jax.Array) -> tuple[jax.Array, Metrics]:
        params, change = networks[NETWORK], config.augmentation
        keys = jax.random.split(key, 5)
        audio = change_gain(keys[0], shift_sound(keys[1], batch["audio"], batch["valid"]), change.gain_db)
        features = tilt_spectrum(keys[2], log_mel_features(audio, clap.front_end()), change.tilt_db)
        mean = params["audio_tower"]["input_norm"]["mean"]
        features = mask_stripes(keys[3], features, mean, change.stripes, change.stripe_frames, change.stripe_bands)
        mask = drop_tokens(keys[4], batch["text_mask"], change.token_dropout)
        audio = clap.apply({"params": params}, features, method="encode_features")
        _, text = clap.apply({"params": params}, batch["tokens"], mask, method="encode_text")
        scale = jnp.exp(params["audio_log_scale"])
        shared = shared_captions(batch["tokens"], batch["text_mask"])
        return contrastive_loss(audio, text, scale, shared), {"scale": scale}

    def embeddings(networks: Tree, batch: Batch) -> dict[str, jax.Array]:
        audio = repeat_sound(batch["audio"], batch["valid"])
        out = clap.apply({"params": networks[NETWORK]}, audio, batch["tokens"], batch["text_mask"])
        return {"audio": out.audio, "text": out.text, "tokens": batch["tokens"], "text_mask": batch["text_mask"]}

    def validate(networks: Tree, batch: Batch, key: jax.Array) -> Metrics:
        rows = embeddings(networks, batch)
        shared = shared_captions(rows["tokens"], rows["text_mask"])
        scale = jnp.exp(networks[NETWORK]["audio_log_scale"])
        return {"loss": contrastive_loss(rows["audio"], rows["text"], scale, shared)}

    def recall(rows: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Of the whole held-out pass: a partner among few is found more easily than among many."""
        shared = shared_captions(rows["tokens"], rows["text_mask"])
        found = retrieval_recall(jnp.asarray(rows["audio"]), jnp.asarray(rows["text"]), RECALL_AT, shared)
        return {name: float(value) for name, value in found.items()} | {"candidates": float(len(rows["audio"]))}

    def finish(networks: Tree, draw: Callable[[], Iterator[dict]]) -> Finished:
        return Finished({NETWORK: (fields, networks[NETWORK])})

    size = config.data.batch_size
    before = None if upstream is None else upstream.networks.get(NETWORK)
    # A text tower alone, or a CLAP of other towers, is replaced and not trained on.
    inherited = {} if before is None or before.class_name not in ("", Clap.__name__) else {NETWORK: before.params}
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
        gather=embeddings,
        summarise=recall,
        finish=finish,
    )
