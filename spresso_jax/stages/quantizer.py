"""Stage 5, QINCo2 (the paper's step 2): neural residual quantizer of the frozen embeddings z.

Source: S-PRESSO 3.4 and 4.2.2; QINCo2 (loss, quarter-cosine schedule, clipping by value).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from spresso_jax.configuration import to_plain
from spresso_jax.quantizer import assign, initialise
from spresso_jax.quantizer.qinco import Qinco
from spresso_jax.quantizer.schedule import quarter_cosine
from spresso_jax.shapes import EMBEDDING_CHANNELS
from spresso_jax.train.stage import Batch, Finished, Metrics, Player, Stage, Tree

NETWORK = "quantizer"


def build(config: Any, upstream: Any = None) -> Stage:
    """The stage of `experiments/quantizer.py`."""
    fields = {**to_plain(config.model), "dimension": EMBEDDING_CHANNELS}
    quantizer = Qinco(**fields)
    search = {"preselect": config.train_search.preselect, "beam": config.train_search.beam}

    def start(networks: Tree, draw: Callable[[], Iterator[dict]]) -> Tree:
        """Codebooks from residual k-means of real embeddings, so that training starts equal to a plain RQ."""
        batches, rows, needed = draw(), [], config.initialisation.rows
        while sum(len(part) for part in rows) < needed:
            rows.append(np.asarray(next(batches)["embedding"]))
        if hasattr(batches, "close"):
            batches.close()
        params = initialise.fit(
            quantizer,
            jax.random.key(config.seed),
            jnp.asarray(np.concatenate(rows)[:needed]),
            start=config.initialisation.start,
            iterations=config.initialisation.iterations,
        )
        return {**networks, NETWORK: params}

    def loss(networks: Tree, product: None, batch: Batch, key: jax.Array) -> tuple[jax.Array, Metrics]:
        params, z = networks[NETWORK], batch["embedding"]
        codes = assign.encode(quantizer, jax.lax.stop_gradient(params), z, **search)
        value, parts = quantizer.training_loss(params, z, codes)
        return value, {"mse": parts["error_per_step"][-1], "mse_first": parts["error_per_step"][0]}

    def validate(networks: Tree, batch: Batch, key: jax.Array) -> Metrics:
        z = batch["embedding"]
        codes, reconstructions = assign.encode_all_prefixes(quantizer, networks[NETWORK], z)
        errors = jnp.mean(jnp.sum(jnp.square(reconstructions - z), axis=-1), axis=1)
        energy = jnp.mean(jnp.sum(jnp.square(z - jnp.mean(z, axis=0)), axis=-1))
        metrics = {f"mse_m{m + 1}": errors[m] for m in range(quantizer.codebooks)}
        used = assign.usage_statistics(assign.usage_counts(codes[-1], quantizer.codewords))
        return {
            "loss": errors[-1],
            "unexplained": errors[-1] / energy,
            "entropy_bits": jnp.mean(used["entropy_bits"]),
            **metrics,
        }

    def maintain(networks: Tree, draw: Callable[[], Iterator[dict]], key: jax.Array) -> Tree:
        """Moves codewords that a few batches never chose onto real residuals."""
        params, batches = networks[NETWORK], draw()
        encode = jax.jit(lambda p, z: assign.encode(quantizer, p, z, **search))
        counts, last = 0, None
        for _ in range(config.revival.batches):
            last = jnp.asarray(next(batches)["embedding"])
            codes = encode(params, last)
            counts = counts + assign.usage_counts(codes, quantizer.codewords)
        if hasattr(batches, "close"):
            batches.close()
        residuals = quantizer.residuals(params, last, codes)
        return {**networks, NETWORK: initialise.revive(quantizer, params, counts, residuals, key)[0]}

    def finish(networks: Tree, draw: Callable[[], Iterator[dict]]) -> Finished:
        point = dict((upstream.facts if upstream is not None else {}).get("operating_point", {}))
        default = min(point.get("codebooks", quantizer.codebooks), quantizer.codebooks)
        others = [m for m in point.get("decode_codebooks", ()) if m <= quantizer.codebooks and m != default]
        point |= {
            "codebook_bits": (quantizer.codewords - 1).bit_length(),
            "trained_codebooks": quantizer.codebooks,
            "decode_codebooks": [default, *others],
            "codebooks": default,
            "finetune_codebooks": min(point.get("finetune_codebooks", quantizer.codebooks), quantizer.codebooks),
        }
        return Finished({NETWORK: (fields, networks[NETWORK])}, {"operating_point": point})

    rate = config.optimizer

    def schedule(step: jax.Array) -> jax.Array:
        epochs = (rate.ramp_epochs, rate.cosine_epochs)
        return rate.learning_rate * quarter_cosine(step, config.loop.steps / sum(epochs), *epochs, rate.floor)

    optimizer = optax.chain(
        optax.clip(rate.clip_value),
        optax.adamw(schedule, b1=rate.b1, b2=rate.b2, weight_decay=rate.weight_decay),
    )
    inherited = {}
    if config.go_on and upstream is not None and NETWORK in upstream.networks:
        inherited = {NETWORK: upstream.networks[NETWORK].params}
    return Stage(
        name="quantizer",
        init=lambda key: {NETWORK: quantizer.init(key)},
        players=(Player("quantizer", rf"^{NETWORK}/(first_codebook|steps/)", loss, optimizer),),
        batch_spec={"embedding": jax.ShapeDtypeStruct((config.data.batch_size, EMBEDDING_CHANNELS), jnp.float32)},
        upstream=inherited,
        start=None if inherited else start,
        maintain=maintain,
        maintain_every=config.revival.every,
        best="loss" if config.keep_best else None,
        validate=validate,
        finish=finish,
    )
