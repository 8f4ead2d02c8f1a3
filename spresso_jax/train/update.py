"""Turns a stage's players into one pure update function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from spresso_jax.train.stage import Batch, Metrics, Player, Stage, Tree
from spresso_jax.train.state import TrainState, at_step, combine, select


def make_update(stage: Stage, accumulate: int = 1) -> Callable[[TrainState, Tree, Batch], tuple[TrainState, Metrics]]:
    """Returns `update(state, frozen, batch) -> (state, metrics)`, pure and ready for `jax.jit`.

    Within a step the shared product is made once (once a player when accumulating, so that only one micro-batch of it
    is ever held); then each player in turn takes one optimiser step on the leaves it
    owns, seeing what earlier players have just changed (DAC's order: the discriminator on the detached fake, then the
    generator against the updated discriminator). A player whose gradient is not finite stays where it is and the step
    is counted in `state.skipped`. At the end of the step, after the averages, comes the stage's projection, once however
    many micro-batches there were.

    Args:
      stage: the stage.
      accumulate: number of micro-batches whose mean gradient makes one optimiser step; micro-batch i takes rows i,
        i + n, i + 2n, ... so that every device keeps its own rows.
    """

    def update(state: TrainState, frozen: Tree, batch: Batch) -> tuple[TrainState, Metrics]:
        frozen = at_step(stage, frozen, state.step)
        key = jax.random.fold_in(state.key, state.step)
        product_key, loss_key = jax.random.split(key)
        made = _product(stage, state, frozen, batch, product_key) if accumulate == 1 else None
        params, opt, metrics, refused = state.params, dict(state.opt), {}, jnp.zeros((), bool)
        for index, player in enumerate(stage.players):
            owned = select(params, player.owns)
            gradient = _Gradient(stage, player, combine(frozen, state.buffers, params))
            player_key = jax.random.fold_in(loss_key, index)
            if made is not None:
                grads, loss, own_metrics = gradient(owned, batch, player_key, *made)
            else:

                def micro(rows: Batch, i: jax.Array, owned=owned, gradient=gradient, key=player_key) -> tuple:
                    part = _product(stage, state, frozen, rows, jax.random.fold_in(product_key, i))
                    return gradient(owned, rows, jax.random.fold_in(key, i), *part)

                grads, loss, own_metrics = _accumulated(micro, batch, accumulate)
            norm = optax.tree.norm(grads)
            finite = jnp.isfinite(norm)
            updates, new_opt = player.optimizer.update(grads, opt[player.name], owned)
            moved = optax.apply_updates(owned, updates)

            def keep(new: jax.Array, old: jax.Array, finite: jax.Array = finite) -> jax.Array:
                return jnp.where(finite, new, old)

            params = combine(params, jax.tree.map(keep, moved, owned))
            opt[player.name] = jax.tree.map(keep, new_opt, opt[player.name])
            refused = refused | ~finite
            prefix = f"{player.name}/" if len(stage.players) > 1 else ""
            metrics |= {f"{prefix}loss": loss, f"{prefix}grad_norm": norm}
            metrics |= {f"{prefix}{name}": value for name, value in own_metrics.items()}
        step = state.step + 1
        averaged = select(params, stage.averaged)
        ema = {name: _averaged(state.ema[name], averaged, decay(step)) for name, decay in stage.ema.items()}
        params = params if stage.project is None else stage.project(params)
        skipped = state.skipped + refused.astype(jnp.int32)
        metrics["skipped"] = skipped
        return state.replace(step=step, params=params, opt=opt, ema=ema, skipped=skipped), metrics

    return update


def _averaged(average: Tree, params: Tree, decay: jax.Array) -> Tree:
    return jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, average, params)


def _product(
    stage: Stage, state: TrainState, frozen: Tree, batch: Batch, key: jax.Array
) -> tuple[Any, Callable | None]:
    """The shared product and its pull-back to the producing player's leaves."""
    if stage.produce is None:
        return None, None
    (owner,) = [player for player in stage.players if player.name == stage.produce.player]
    rest = combine(frozen, state.buffers, state.params)

    def make(owned: Tree) -> Any:
        return stage.produce.make(combine(rest, owned), batch, key)

    return jax.vjp(make, select(state.params, owner.owns))


class _Gradient:
    """Gradient of one player's loss with respect to the leaves it owns."""

    def __init__(self, stage: Stage, player: Player, rest: Tree):
        self.produces = stage.produce is not None and stage.produce.player == player.name
        self.player, self.rest = player, rest

    def __call__(
        self, owned: Tree, batch: Batch, key: jax.Array, product: Any, pull: Callable | None
    ) -> tuple[Tree, jax.Array, Metrics]:
        if self.produces:

            def of_product(product: Any) -> tuple[jax.Array, Metrics]:
                return self.player.loss(combine(self.rest, owned), product, batch, key)

            (loss, metrics), cotangent = jax.value_and_grad(of_product, has_aux=True)(product)
            (grads,) = pull(cotangent)
            return grads, loss, metrics

        def of_owned(leaves: Tree) -> tuple[jax.Array, Metrics]:
            return self.player.loss(combine(self.rest, leaves), jax.lax.stop_gradient(product), batch, key)

        (loss, metrics), grads = jax.value_and_grad(of_owned, has_aux=True)(owned)
        return grads, loss, metrics


def _accumulated(micro: Callable[[Batch, jax.Array], Any], batch: Batch, n: int) -> Any:
    """Mean over `n` strided micro-batches of what `micro(rows, index)` gives (gradient, loss, metrics)."""
    strided = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(x.shape[0] // n, n, *x.shape[1:]), 0, 1), dict(batch))

    def add(total: Any, inputs: tuple[jax.Array, Batch]) -> tuple[Any, None]:
        index, rows = inputs
        return jax.tree.map(jnp.add, total, micro(rows, index)), None

    shapes = jax.eval_shape(micro, jax.tree.map(lambda x: x[0], strided), jnp.int32(0))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, (jnp.arange(n), strided))
    return jax.tree.map(lambda x: x / n, total)
