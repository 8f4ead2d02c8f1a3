"""Periodic snapshots of a run's power-function averages, for reconstruction to other lengths after training.

Source: EDM2 section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax

from spresso_jax.checkpoints.snapshots import SnapshotStore
from spresso_jax.checkpoints.trees import flatten
from spresso_jax.train import mesh as mesh_lib
from spresso_jax.train.state import TrainState


class AverageSnapshots:
    """Hands the averages of a state to a store, whole, on the main process.

    Args:
      store: where they go.
      lengths: name -> relative length of the averages to keep, as `Stage.ema_lengths` has them.
      every: period in steps; the last step of a run is kept too.

    Raises:
      ValueError: if the period is negative, or there is no average to keep.
    """

    def __init__(self, store: SnapshotStore, lengths: Mapping[str, float], every: int):
        if every < 0:
            raise ValueError(f"loop.snapshot_every is {every}: give a number of steps, or 0 for no snapshots")
        if every and not lengths:
            raise ValueError(
                f"loop.snapshot_every is {every}, but this stage keeps no power-function averages: set it to 0"
            )
        self.store, self.lengths, self.every = store, dict(lengths), every

    def begin(self, step: int) -> None:
        """Forgets snapshots later than `step`, at which the run starts: it will come by their steps again."""
        if jax.process_index() == 0:
            self.store.drop_after(step)

    def offer(self, step: int, state: TrainState, last: bool) -> None:
        """Keeps the averages of `state` if their step is due; a step that is there already is left alone.

        Every process must call it: parameters that are split over processes are gathered, one leaf at a time.
        """
        if not self.every or not step or (step % self.every and not last):
            return
        main = jax.process_index() == 0
        averages: dict[str, dict] = {}
        for name in self.lengths:
            whole = {path: mesh_lib.on_host(leaf) for path, leaf in flatten(state.ema[name]).items()}
            if main:
                averages[name] = whole
        if main:
            self.store.save(step, averages, self.lengths)
