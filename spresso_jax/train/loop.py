"""THE training loop: restore, then evaluate, preview, save, draw, update, log, until done or asked to stop.

Validation and checkpoints come before the update of their step, and a batch is drawn after them, so that step N means
the same everywhere: weights after N updates, and batch N still to be seen.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spresso_jax.checkpoints.store import CheckpointStore
from spresso_jax.checkpoints.trees import flatten, unflatten
from spresso_jax.observe.metrics import MetricsWriter
from spresso_jax.observe.progress import TrainingProgress
from spresso_jax.train import mesh as mesh_lib
from spresso_jax.train.best import BestState
from spresso_jax.train.evaluator import Evaluator
from spresso_jax.train.snapshots import AverageSnapshots
from spresso_jax.train.stage import Stage, Tree
from spresso_jax.train.state import TrainState, create, inherit, networks_of
from spresso_jax.train.update import make_update

Batches = Iterator[Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class LoopConfig:
    """How often things happen, in steps (0: never).

    Attributes:
      steps: last step.
      log_every, validate_every, preview_every, save_every: periods.
      keep: checkpoints that stay.
      accumulate: micro-batches an update.
      seed: root of every random number of the run.
    """

    steps: int
    log_every: int = 20
    validate_every: int = 500
    preview_every: int = 0
    save_every: int = 500
    keep: int = 2
    accumulate: int = 1
    seed: int = 0


@dataclass(frozen=True)
class RunIO:
    """What the loop needs of the outside world, handed in by the command line.

    Attributes:
      draw: start step -> iterator of NumPy batches (with `close()` if it holds threads); batch k is a function of k.
      validation: source name -> function that gives a fresh, finite iterator of batches.
      store: checkpoints.
      metrics: writer of metrics.jsonl.
      write_preview: (step, {name: array}) -> None.
      meta: JSON-able facts saved with each checkpoint.
      resume_command: printed when the run is interrupted.
      best: keeps the best state by a held-out figure, or None.
      snapshots: keeps the averages of every so many steps, or None.
    """

    draw: Callable[[int], Batches]
    validation: Mapping[str, Callable[[], Batches]]
    store: CheckpointStore
    metrics: MetricsWriter
    write_preview: Callable[[int, Mapping[str, np.ndarray]], None] | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    resume_command: str = ""
    best: BestState | None = None
    snapshots: AverageSnapshots | None = None


@dataclass(frozen=True)
class Outcome:
    """State after the last update, the frozen leaves, whether the run reached its last step, and the state to export.

    That one is the best by a held-out figure, if the stage names one and the run has ended; else the last.
    """

    state: TrainState
    frozen: Tree
    finished: bool
    chosen: TrainState


def prepare(
    stage: Stage, seed: int, mesh: jax.sharding.Mesh, draw: Callable[[int], Batches]
) -> tuple[TrainState, Tree]:
    """A fresh state and the frozen leaves, each leaf born where it will live."""
    key = jax.random.key(seed)
    init_key, run_key = jax.random.split(key)
    abstract = jax.eval_shape(stage.init, init_key)
    networks = jax.jit(stage.init, out_shardings=mesh_lib.tree_shardings(abstract, mesh))(init_key)
    networks = inherit(stage, networks)
    if stage.start is not None:
        networks = stage.start(networks, lambda: draw(0))
    state, frozen = create(stage, networks, run_key)
    return (
        jax.device_put(state, mesh_lib.tree_shardings(state, mesh)),
        jax.device_put(frozen, mesh_lib.tree_shardings(frozen, mesh)),
    )


def abstract_state(stage: Stage, seed: int, mesh: jax.sharding.Mesh) -> tuple[TrainState, Tree]:
    """Shapes and shardings of the state, and the frozen leaves, without data-dependent initialisation."""
    key = jax.random.key(seed)
    init_key, run_key = jax.random.split(key)
    shapes, made = jax.eval_shape(lambda k: create(stage, inherit(stage, stage.init(k)), run_key), init_key)
    shardings = mesh_lib.tree_shardings(shapes, mesh)
    state = jax.tree.map(lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p), shapes, shardings)
    inherited = flatten(stage.upstream)
    frozen = unflatten({path: jnp.asarray(inherited[path], leaf.dtype) for path, leaf in flatten(made).items()})
    return state, jax.device_put(frozen, mesh_lib.tree_shardings(frozen, mesh))


def run(stage: Stage, config: LoopConfig, io: RunIO, mesh: jax.sharding.Mesh, resume: bool = False) -> Outcome:
    """Trains `stage` to `config.steps` and returns the outcome.

    A first SIGINT or SIGTERM ends the run after the current step with a checkpoint and the resume command; a second one
    ends it at once.

    Raises:
      FloatingPointError: if 100 updates in a row were refused because gradients were not finite.
    """
    main_process = jax.process_index() == 0
    with TrainingProgress(stage.name, config.steps, enabled=main_process) as progress, _StopSignals() as stop:
        if resume:
            abstract, frozen = abstract_state(stage, config.seed, mesh)
            state, meta = io.store.restore(abstract)
            if "fell_back_from" in meta:
                progress.say(
                    f"checkpoint {meta['fell_back_from']} is unreadable ({meta['because']}); using the one before"
                )
        else:
            state, frozen = prepare(stage, config.seed, mesh, io.draw)
        step = start = int(state.step)
        if io.snapshots is not None:
            io.snapshots.begin(step)
        update = _Compiled(
            jax.jit(
                mesh_lib.within(make_update(stage, config.accumulate), mesh),
                donate_argnums=0,
                out_shardings=(mesh_lib.tree_shardings(state, mesh), mesh_lib.replicated(mesh)),
            ),
            progress,
        )
        evaluate = Evaluator(stage, io.validation, io.metrics, io.write_preview, mesh, progress)
        batches = io.draw(step)
        waits: list[float] = []
        window = (time.monotonic(), step)
        try:
            while True:
                last = step >= config.steps
                leaving = stop.requested or (step > start and io.store.reached_preemption(step))
                # Step 0 is where a fresh run's held-out figures start. A resumed run does not validate its first step: it was
                # validated before it was saved, unless an interrupt fell on that very step.
                if not leaving and (step > start or step == 0) and (_due(step, config.validate_every) or last):
                    means = evaluate.validate(state, frozen, step)
                    if io.best is not None:
                        io.best.offer(step, state, means, io.meta)
                    window = (time.monotonic(), step)
                if not leaving and config.preview_every and step > start and (_due(step, config.preview_every) or last):
                    evaluate.preview(state, frozen, step)
                    window = (time.monotonic(), step)
                if io.snapshots is not None:
                    # Before the checkpoint of its step: a run that resumes there finds it, or comes by it again.
                    io.snapshots.offer(step, state, last)
                if last or leaving or (_due(step, config.save_every) and step > start):
                    io.store.save(step, state, io.meta | {"step": step})
                if last or leaving:
                    break
                began = time.monotonic()
                batch = mesh_lib.place_batch(next(batches), mesh)
                waits.append(time.monotonic() - began)
                state, metrics = update(state, frozen, batch)
                step += 1
                if stage.maintain is not None and _due(step, stage.maintain_every):
                    state = _maintain(stage, state, frozen, lambda at=step: io.draw(at), mesh)
                if _due(step, config.log_every) or step == start + 1:
                    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
                    now = time.monotonic()
                    if step > window[1] and step > start + 1:
                        values["seconds_per_step"] = (now - window[0]) / (step - window[1])
                        values["input_wait"] = sum(waits) / max(now - window[0], 1e-9)
                    window = (now, step)
                    waits.clear()
                    io.metrics.write(step, "train", values)
                    progress.report(step, {k: v for k, v in values.items() if "loss" in k or k == "skipped" and v})
                    if values["skipped"] >= 100 and values["skipped"] >= step - start:
                        raise FloatingPointError(
                            f"{stage.name}: no finite gradient in {step - start} steps; lower the rate"
                        )
                progress.advance(step)
        finally:
            if hasattr(batches, "close"):
                batches.close()
        io.store.wait()
        if step < config.steps:
            progress.say(f"stopped at step {step}; checkpoint saved. Resume with:\n  {io.resume_command}")
        finished = step >= config.steps
        chosen = io.best.choose(state, progress.say) if io.best is not None and finished else state
        return Outcome(state, frozen, finished, chosen)


def _due(step: int, period: int) -> bool:
    return period > 0 and step % period == 0


def _maintain(
    stage: Stage, state: TrainState, frozen: Tree, draw: Callable[[], Batches], mesh: jax.sharding.Mesh
) -> TrainState:
    """Applies the stage's out-of-step maintenance to the raw leaves."""
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 1)
    networks = stage.maintain(networks_of(state, frozen), draw, key)
    flat = flatten(networks)
    params = unflatten({path: flat[path] for path in flatten(state.params)})
    return state.replace(params=jax.device_put(params, mesh_lib.tree_shardings(params, mesh)))


class _Compiled:
    """Compiles the update on its first call, with the time shown, and never again: other shapes are an error."""

    def __init__(self, jitted: Any, progress: TrainingProgress):
        self.jitted, self.progress, self.compiled = jitted, progress, None

    def __call__(self, *arguments: Any) -> Any:
        if self.compiled is None:
            began = time.monotonic()
            self.compiled = self.jitted.lower(*arguments).compile()
            self.progress.say(f"compiled the update step in {time.monotonic() - began:.1f} s")
        return self.compiled(*arguments)


class _StopSignals:
    """Turns the first SIGINT or SIGTERM into a flag; the second one acts as usual."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> _StopSignals:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._previous[number] = signal.signal(number, self._on_signal)
            except ValueError:
                break  # not the main thread (tests, notebooks): signals stay as they are
        return self

    def _on_signal(self, number: int, frame: Any) -> None:
        self.requested = True
        signal.signal(number, self._previous[number])

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
