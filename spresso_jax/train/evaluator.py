"""Held-out figures and previews of a training run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np

from spresso_jax.observe.metrics import MetricsWriter
from spresso_jax.observe.progress import TrainingProgress
from spresso_jax.train import mesh as mesh_lib
from spresso_jax.train.stage import Stage, Tree
from spresso_jax.train.state import TrainState, at_step, networks_of

Batches = Iterator[Mapping[str, np.ndarray]]


class Evaluator:
    """Validates and previews under the stage's chosen average.

    Args:
      stage: its `validate`, `gather` and `preview` are compiled here, once each.
      validation: source name -> function that gives a fresh, finite iterator of batches.
      metrics: where the means are written.
      write_preview: (step, {name: array}) -> None, or None.
      mesh: where batches are placed.
      progress: tells the figures.
    """

    def __init__(
        self,
        stage: Stage,
        validation: Mapping[str, Callable[[], Batches]],
        metrics: MetricsWriter,
        write_preview: Callable[[int, Mapping[str, np.ndarray]], None] | None,
        mesh: jax.sharding.Mesh,
        progress: TrainingProgress,
    ):
        self.stage, self.validation, self.metrics = stage, validation, metrics
        self.write_preview, self.mesh, self.progress = write_preview, mesh, progress
        self._validate = jax.jit(mesh_lib.within(stage.validate, mesh))
        # Rows that lie on other processes are needed on every one of them.
        whole = mesh_lib.replicated(mesh)
        self._gather = jax.jit(stage.gather, out_shardings=whole) if stage.gather is not None else None
        self._preview = jax.jit(stage.preview) if stage.preview is not None else None

    def validate(self, state: TrainState, frozen: Tree, step: int) -> dict[str, dict[str, float]]:
        """Mean of every metric over each source's validation batches, and what the stage says of all its rows together.

        Key k belongs to batch k, at any step.
        """
        found = {}
        networks = networks_of(state, at_step(self.stage, frozen, state.step), self.stage.chosen_ema)
        for source, fresh in self.validation.items():
            totals: dict[str, list[float]] = {}
            gathered: dict[str, list[np.ndarray]] = {}
            batches = fresh()
            for index, rows in enumerate(batches):
                key = jax.random.fold_in(jax.random.key(20_240_501), index)
                batch = mesh_lib.place_batch(rows, self.mesh)
                for name, value in jax.device_get(self._validate(networks, batch, key)).items():
                    totals.setdefault(name, []).append(float(value))
                if self._gather is not None:
                    for name, value in self._gather(networks, batch).items():
                        gathered.setdefault(name, []).append(mesh_lib.on_host(value))
            # A batch without, say, any clip in a sigma bin reports NaN there: it has no say in that mean.
            means = {k: float(np.nanmean(v)) for k, v in totals.items() if np.isfinite(v).any()}
            if gathered:
                means |= self.stage.summarise({name: np.concatenate(rows) for name, rows in gathered.items()})
            if means:
                found[source] = means
                split = "val" if len(self.validation) == 1 else f"val/{source}"
                self.metrics.write(step, split, means)
                shown = {k: v for k, v in means.items() if "bin" not in k and "_step" not in k}
                self.progress.say(f"step {step} {split}: " + "  ".join(f"{k} {v:.4g}" for k, v in shown.items()))
        return found

    def preview(self, state: TrainState, frozen: Tree, step: int) -> None:
        """Runs the stage's preview on the first validation batch and hands the arrays on."""
        if self._preview is None or self.write_preview is None or not self.validation:
            return
        fresh = next(iter(self.validation.values()))
        rows = next(iter(fresh()), None)
        if rows is None:
            return
        networks = networks_of(state, at_step(self.stage, frozen, state.step), self.stage.chosen_ema)
        arrays = self._preview(networks, mesh_lib.place_batch(rows, self.mesh), jax.random.key(0))
        self.write_preview(step, {name: np.asarray(value) for name, value in jax.device_get(arrays).items()})
