"""The best state of a run by a held-out figure, kept beside the newest ones.

Source: DAC's training, where the mel distance on held-out clips chooses the checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from spresso_jax.checkpoints.store import CheckpointStore
from spresso_jax.train.state import TrainState


class BestState:
    """Keeps the state with the lowest figure so far in a checkpoint store of its own.

    Args:
      store: holds that one state; a store that has one already (a resumed run) gives the figure to beat.
      metric: name of the validation metric; over several sources, their mean.
    """

    def __init__(self, store: CheckpointStore, metric: str):
        self.store, self.metric = store, metric
        self.lowest = float(store.read_meta()["lowest"]) if store.steps() else math.inf

    def offer(self, step: int, state: TrainState, means: Mapping[str, Mapping[str, float]], meta: Mapping) -> bool:
        """Saves `state` if its figure in `means` (source -> metric -> value) is the lowest so far; says whether it did."""
        values = [row[self.metric] for row in means.values() if self.metric in row]
        if not values or not sum(values) / len(values) < self.lowest:
            return False
        self.lowest = sum(values) / len(values)
        self.store.save(step, state, {**meta, "step": step, "metric": self.metric, "lowest": self.lowest})
        return True

    def restore(self, state: Any) -> TrainState | None:
        """The kept state, placed as the abstract `state` says; None if no figure was ever offered."""
        return self.store.restore(state)[0] if self.store.steps() else None
