"""Stage 5, QINCo2 (the paper's step 2): neural residual quantizer of the frozen embeddings z.

Source: S-PRESSO 3.4 and 4.2.2; QINCo2 (loss, quarter-cosine schedule, clipping by value).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from spresso_jax.configuration import to_plain
from spresso_jax.quantizer import assign, initialise, revival
from spresso_jax.quantizer.qinco import Qinco
from spresso_jax.quantizer.residual_kmeans import KMeans
from spresso_jax.quantizer.row_stream import RowStream
from spresso_jax.quantizer.schedule import quarter_cosine
from spresso_jax.stages.embedding_rows import compute_rows
from spresso_jax.train.mesh import batch_sharding, place_batch
from spresso_jax.train.stage import Batch, Finished, Metrics, Player, Stage, Tree

NETWORK = "quantizer"


def _mesh_of(networks: Tree) -> jax.sharding.Mesh | None:
    """The mesh on which the networks live, if they do."""
    sharding = getattr(jax.tree.leaves(networks[NETWORK])[0], "sharding", None)
    return sharding.mesh if isinstance(sharding, jax.sharding.NamedSharding) else None


def _per_step(quantizer: Qinco, errors: jax.Array, codes: jax.Array) -> Metrics:
    """Figures of one batch: error [M] after 1..M codes, and use of every step's codewords by codes [B, M].

    A batch that is small beside K leaves codewords unused, and bounds the entropy by log2 of its rows.
    """
    counts = assign.usage_counts(codes, quantizer.codewords)
    used = assign.usage_statistics(counts)
    metrics = {"entropy_bits": jnp.mean(used["entropy_bits"])}
    for step in range(quantizer.codebooks):
        metrics |= {
            f"mse_m{step + 1}": errors[step],
            f"entropy_bits_step{step + 1}": used["entropy_bits"][step],
            f"perplexity_step{step + 1}": used["perplexity"][step],
            f"dead_step{step + 1}": jnp.sum(counts[step] == 0),
        }
    return metrics


def build(config: Any, upstream: Any = None) -> Stage:
    """The stage of `experiments/quantizer.py`."""
    fields = to_plain(config.model)
    quantizer = Qinco(**fields)
    search = {"preselect": config.train_search.preselect, "beam": config.train_search.beam}

    settings = config.initialisation
    kmeans = KMeans(iterations=settings.iterations, seeding=settings.seeding, growing=settings.growing)
    if config.revival.draw not in revival.DRAWS:
        raise ValueError(f"revival.draw must be one of {', '.join(revival.DRAWS)}, got {config.revival.draw!r}")

    def start(networks: Tree, draw: Callable[[], Iterator[dict]]) -> Tree:
        """Codebooks from residual k-means of real embeddings, so that training starts equal to a plain RQ."""

        def parts() -> Iterator[np.ndarray]:
            batches = draw()
            try:
                for batch in batches:
                    yield np.asarray(batch["embedding"])
            finally:
                if hasattr(batches, "close"):
                    batches.close()

        mesh = _mesh_of(networks)
        params = initialise.fit(
            quantizer,
            jax.random.key(config.seed),
            RowStream(parts, quantizer.dimension, settings.rows, None if mesh is None else batch_sharding(mesh)),
            start=settings.start,
            kmeans=kmeans,
            scale=settings.scale,
            hold=settings.rows <= settings.held_rows,
        )
        return {**networks, NETWORK: params}

    def loss(networks: Tree, product: None, batch: Batch, key: jax.Array) -> tuple[jax.Array, Metrics]:
        params, z = networks[NETWORK], batch["embedding"]
        codes = assign.encode(quantizer, jax.lax.stop_gradient(params), z, **search)
        value, parts = quantizer.training_loss(params, z, codes)
        return value, _per_step(quantizer, parts["error_per_step"], codes)

    def validate(networks: Tree, batch: Batch, key: jax.Array) -> Metrics:
        z = batch["embedding"]
        codes, reconstructions = assign.encode_all_prefixes(quantizer, networks[NETWORK], z)
        errors = jnp.mean(jnp.sum(jnp.square(reconstructions - z), axis=-1), axis=1)
        energy = jnp.mean(jnp.sum(jnp.square(z - jnp.mean(z, axis=0)), axis=-1))
        return {"loss": errors[-1], "unexplained": errors[-1] / energy, **_per_step(quantizer, errors, codes[-1])}

    @partial(jax.jit, static_argnums=2)
    def observe(params: Tree, z: jax.Array, mesh: jax.sharding.Mesh | None) -> tuple[jax.Array, jax.Array]:
        codes = assign.encode(quantizer, params, z, mesh=mesh, **search)
        return assign.usage_counts(codes, quantizer.codewords), quantizer.residuals(params, z, codes)

    def maintain(networks: Tree, draw: Callable[[], Iterator[dict]], key: jax.Array) -> Tree:
        """Moves codewords that a few batches never chose onto real residuals, or to the reference's noise.

        Counts and residuals are those of the next batches under the present weights, summed over devices and processes;
        the reference counts the batches of the epoch past, as the weights were when each was seen.
        """
        params, mesh, batches = networks[NETWORK], _mesh_of(networks), draw()
        counts, residuals, moments = 0, None, None
        for _ in range(config.revival.batches):
            batch = {"embedding": np.asarray(next(batches)["embedding"])}
            z = (batch if mesh is None else place_batch(batch, mesh))["embedding"]
            used, residuals = observe(params, z, mesh)
            counts = counts + used
            if config.revival.draw == "noise":
                moments = revival.residual_moments(moments, residuals)
        if hasattr(batches, "close"):
            batches.close()
        if config.revival.draw == "noise":
            revived, _ = revival.revive_from_noise(quantizer, params, counts, moments, key)
        else:
            revived, _ = revival.revive(quantizer, params, counts, residuals, key)
        return {**networks, NETWORK: revived}

    def finish(networks: Tree, draw: Callable[[], Iterator[dict]]) -> Finished:
        point = dict((upstream.facts if upstream is not None else {}).get("operating_point", {}))
        default = min(config.default_codebooks or point.get("codebooks", quantizer.codebooks), quantizer.codebooks)
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
        per_epoch = config.loop.steps / (sum(epochs) + rate.floor_epochs)
        return rate.learning_rate * quarter_cosine(step, per_epoch, *epochs, rate.floor)

    optimizer = optax.chain(
        optax.clip(rate.clip_value),
        optax.adamw(schedule, b1=rate.b1, b2=rate.b2, weight_decay=rate.weight_decay),
    )
    inherited = {}
    if config.go_on and upstream is not None and NETWORK in upstream.networks:
        inherited = {NETWORK: upstream.networks[NETWORK].params}
    stage = Stage(
        name="quantizer",
        init=lambda key: {NETWORK: quantizer.init(key)},
        players=(Player("quantizer", rf"^{NETWORK}/(first_codebook|steps/)", loss, optimizer),),
        batch_spec={"embedding": jax.ShapeDtypeStruct((config.data.batch_size, quantizer.dimension), jnp.float32)},
        upstream=inherited,
        start=None if inherited else start,
        maintain=maintain,
        maintain_every=config.revival.every,
        best="loss" if config.keep_best else None,
        validate=validate,
        finish=finish,
    )
    return compute_rows(stage, upstream, config.crops) if config.embeddings == "on_the_fly" else stage
