"""The best state of a run by a held-out figure, kept beside the newest ones.

Source: DAC's training, where the mel distance on held-out clips chooses the checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax

from spresso_jax.checkpoints.store import CheckpointStore
from spresso_jax.train.state import TrainState


class BestState:
    """Keeps the state with the lowest figure so far in a checkpoint store of its own.

    Args:
      store: holds that one state.
      metric: name of the validation metric; over several sources, their mean.
      resume: the run goes on: what the store holds is the figure to beat. Else it is left from a run that never got to a
        checkpoint, perhaps with another config, and is removed.
    """

    def __init__(self, store: CheckpointStore, metric: str, resume: bool = False):
        self.store, self.metric, self.lowest = store, metric, math.inf
        if not resume:
            for step in store.steps():
                store.delete(step)
        elif store.steps():
            self.lowest = float(store.read_meta()["lowest"])

    def offer(self, step: int, state: TrainState, means: Mapping[str, Mapping[str, float]], meta: Mapping) -> bool:
        """Saves `state` if its figure in `means` (source -> metric -> value) is the lowest so far; says whether it did."""
        values = [row[self.metric] for row in means.values() if self.metric in row]
        if not values or not sum(values) / len(values) < self.lowest:
            return False
        self.lowest = sum(values) / len(values)
        # A resumed run may come by a step a second time, after a change of its config.
        self.store.delete(step)
        self.store.save(step, state, {**meta, "step": step, "metric": self.metric, "lowest": self.lowest})
        return True

    def choose(self, last: TrainState, say: Callable[[str], Any]) -> TrainState:
        """The kept state, placed as `last` is; `last` itself if no figure was ever offered. Tells which step it is."""
        self.store.wait()
        if not self.store.steps():
            return last
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), last)
        kept, _ = self.store.restore(shapes)
        say(f"the model is that of step {int(kept.step)}: lowest held-out {self.metric}, {self.lowest:.4g}")
        return kept
