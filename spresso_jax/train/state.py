"""The training state, and the split of a tree of networks into trained, buffered and frozen leaves."""

from __future__ import annotations

import re
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from flax import struct

from spresso_jax.checkpoints.trees import flatten, unflatten
from spresso_jax.train.stage import Stage, Tree


@struct.dataclass
class TrainState:
    """Everything that changes from step to step.

    Attributes:
      step: int32 scalar, number of updates done.
      key: typed root key of the run; step k uses fold_in(key, k).
      params: trained leaves.
      buffers: own leaves that no player trains.
      opt: {player: optimiser state}.
      ema: {name: tree like params, of the leaves that are averaged}.
      skipped: int32 scalar, updates refused because a gradient was not finite.
    """

    step: jax.Array
    key: jax.Array
    params: Tree
    buffers: Tree
    opt: dict
    ema: dict
    skipped: jax.Array


def combine(*trees: Tree) -> Tree:
    """One nested tree with the leaves of all; of leaves at the same path the last one wins."""
    flat: dict[str, jax.Array] = {}
    for tree in trees:
        flat.update(flatten(tree))
    return unflatten(flat)


def select(tree: Tree, pattern: str) -> Tree:
    """The sub-tree of leaves whose path contains a match of `pattern`."""
    search = re.compile(pattern).search
    return unflatten({path: leaf for path, leaf in flatten(tree).items() if search(path)})


def without(tree: Tree, paths: Iterable[str]) -> Tree:
    """The sub-tree of leaves whose path is not in `paths`."""
    drop = set(paths)
    return unflatten({path: leaf for path, leaf in flatten(tree).items() if path not in drop})


def split(stage: Stage, networks: Tree) -> tuple[Tree, Tree, Tree]:
    """(params, buffers, frozen) of a full tree of networks, as `stage.py` defines them.

    Raises:
      ValueError: if a player owns no leaf, or two players own the same one.
    """
    flat = flatten(networks)
    owners: dict[str, str] = {}
    for player in stage.players:
        search = re.compile(player.owns).search
        owned = [path for path in flat if search(path)]
        if not owned:
            raise ValueError(f"stage {stage.name}: player {player.name} owns no parameter (pattern {player.owns!r})")
        for path in owned:
            if path in owners:
                raise ValueError(f"stage {stage.name}: {path} is owned by {owners[path]} and by {player.name}")
            owners[path] = player.name
    inherited = set(flatten(stage.upstream))
    params = {path: leaf for path, leaf in flat.items() if path in owners}
    frozen = {path: leaf for path, leaf in flat.items() if path not in owners and path in inherited}
    buffers = {path: leaf for path, leaf in flat.items() if path not in owners and path not in inherited}
    return unflatten(params), unflatten(buffers), unflatten(frozen)


def inherit(stage: Stage, networks: Tree) -> Tree:
    """Replaces freshly initialised leaves by the upstream leaves at the same path, and adds upstream's other networks.

    Raises:
      ValueError: if a shape differs, naming the leaf and both shapes.
    """
    check_inherited(stage, networks)
    result = dict(flatten(networks))
    for path, leaf in flatten(stage.upstream).items():
        result[path] = jnp.asarray(leaf, jnp.float32) if jnp.issubdtype(leaf.dtype, jnp.floating) else jnp.asarray(leaf)
    return unflatten(result)


def check_inherited(stage: Stage, networks: Tree) -> None:
    """Compares the shapes of upstream leaves with those that `init` makes (arrays, or shapes alone).

    Raises:
      ValueError: if one differs, naming the leaf and both shapes.
    """
    fresh = flatten(networks)
    for path, leaf in flatten(stage.upstream).items():
        if path in fresh and tuple(fresh[path].shape) != tuple(leaf.shape):
            raise ValueError(
                f"stage {stage.name}: {path} has shape {tuple(leaf.shape)} in the upstream model but the config asks for"
                f" {tuple(fresh[path].shape)}; use the upstream model's own sizes"
            )


def create(stage: Stage, networks: Tree, key: jax.Array) -> tuple[TrainState, Tree]:
    """State at step 0, its trained leaves projected, and the frozen leaves, from a full tree of networks."""
    params, buffers, frozen = split(stage, networks)
    params = params if stage.project is None else stage.project(params)
    opt = {player.name: player.optimizer.init(select(params, player.owns)) for player in stage.players}
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        key=key,
        params=params,
        buffers=buffers,
        opt=opt,
        ema={name: jax.tree.map(jnp.copy, select(params, stage.averaged)) for name in stage.ema},
        skipped=jnp.zeros((), jnp.int32),
    )
    return state, frozen


def networks_of(state: TrainState, frozen: Tree, ema: str | None = None) -> Tree:
    """The full tree of networks, with the trained leaves raw or under the average `ema`."""
    return combine(frozen, state.buffers, state.params, {} if ema is None else state.ema[ema])


def at_step(stage: Stage, frozen: Tree, step: jax.Array) -> Tree:
    """The frozen leaves with the stage's schedules at `step` beside them."""
    if not stage.schedules:
        return frozen
    return {**frozen, "schedule": {name: value(step) for name, value in stage.schedules.items()}}
