"""Turns a stage's players into one pure update function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from spresso_jax.train.stage import Batch, Metrics, Player, Stage, Tree
from spresso_jax.train.state import TrainState, combine, select


def make_update(stage: Stage, accumulate: int = 1) -> Callable[[TrainState, Tree, Batch], tuple[TrainState, Metrics]]:
    """Returns `update(state, frozen, batch) -> (state, metrics)`, pure and ready for `jax.jit`.

    Within a step the shared product is made once; then each player in turn takes one optimiser step on the leaves it
    owns, seeing what earlier players have just changed (DAC's order: the discriminator on the detached fake, then the
    generator against the updated discriminator). A player whose gradient is not finite stays where it is and the step
    is counted in `state.skipped`.

    Args:
      stage: the stage.
      accumulate: number of micro-batches whose mean gradient makes one optimiser step; micro-batch i takes rows i,
        i + n, i + 2n, ... so that every device keeps its own rows. Only for stages with one player.

    Raises:
      ValueError: if `accumulate` exceeds 1 for a stage with several players.
    """
    if accumulate > 1 and len(stage.players) > 1:
        raise ValueError(f"stage {stage.name} has several players: accumulate must be 1, got {accumulate}")

    def update(state: TrainState, frozen: Tree, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        product_key, loss_key = jax.random.split(key)
        product, pull = _product(stage, state, frozen, batch, product_key)
        params, opt, metrics, refused = state.params, dict(state.opt), {}, jnp.zeros((), bool)
        for index, player in enumerate(stage.players):
            owned = select(params, player.owns)
            rest = combine(frozen, state.buffers, params)
            gradient = _Gradient(stage, player, rest, product, pull)
            player_key = jax.random.fold_in(loss_key, index)
            grads, loss, own_metrics = (
                gradient(owned, batch, player_key)
                if accumulate == 1
                else _accumulated(gradient, owned, batch, player_key, accumulate)
            )
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
        ema = {name: _averaged(state.ema[name], params, decay(step)) for name, decay in stage.ema.items()}
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

    def __init__(self, stage: Stage, player: Player, rest: Tree, product: Any, pull: Callable | None):
        self.produces = stage.produce is not None and stage.produce.player == player.name
        self.player, self.rest, self.product, self.pull = player, rest, product, pull

    def __call__(self, owned: Tree, batch: Batch, key: jax.Array) -> tuple[Tree, jax.Array, Metrics]:
        if self.produces:

            def of_product(product: Any) -> tuple[jax.Array, Metrics]:
                return self.player.loss(combine(self.rest, owned), product, batch, key)

            (loss, metrics), cotangent = jax.value_and_grad(of_product, has_aux=True)(self.product)
            (grads,) = self.pull(cotangent)
            return grads, loss, metrics

        def of_owned(leaves: Tree) -> tuple[jax.Array, Metrics]:
            product = jax.lax.stop_gradient(self.product)
            return self.player.loss(combine(self.rest, leaves), product, batch, key)

        (loss, metrics), grads = jax.value_and_grad(of_owned, has_aux=True)(owned)
        return grads, loss, metrics


def _accumulated(
    gradient: _Gradient, owned: Tree, batch: Batch, key: jax.Array, n: int
) -> tuple[Tree, jax.Array, Metrics]:
    """Mean gradient, loss and metrics over `n` strided micro-batches."""
    strided = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(x.shape[0] // n, n, *x.shape[1:]), 0, 1), dict(batch))

    def micro(total: Any, inputs: tuple[jax.Array, Batch]) -> tuple[Any, None]:
        index, rows = inputs
        return jax.tree.map(jnp.add, total, gradient(owned, rows, jax.random.fold_in(key, index))), None

    shapes = jax.eval_shape(gradient, owned, jax.tree.map(lambda x: x[0], strided), key)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    total, _ = jax.lax.scan(micro, zeros, (jnp.arange(n), strided))
    return jax.tree.map(lambda x: x / n, total)
