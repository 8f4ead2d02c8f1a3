"""Checkpoints of a running training, through Orbax: atomic, asynchronous, one item a part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

ITEMS = ("params", "buffers", "opt", "counters")


class CheckpointError(ValueError):
    """A checkpoint cannot be read or does not fit; the message names folder, step and remedy."""


class CheckpointStore:
    """Saves and restores training states under `folder/<step>/`.

    A step folder appears under its final name only when every item is complete, so that an interrupted save or a full
    disk leaves the previous checkpoint as the newest one.

    Args:
      folder: where the steps go; created if missing.
      keep: how many of the newest steps stay.
      asynchronous: write in the background while training goes on.
    """

    def __init__(self, folder: str | Path, keep: int = 2, asynchronous: bool = True):
        self.folder = Path(folder).absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=asynchronous, step_prefix=None, create=True,
            # Two stores of one run may write the same step at once: their hosts must not meet at each other's barriers.
            multiprocessing_options=ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=self.folder.name),
        )  # fmt: skip
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def steps(self) -> list[int]:
        """Complete steps, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Writes one step; waits first for the previous write.

        Args:
          state: a `TrainState`.
          meta: JSON-able facts (stage, config, seed, fingerprints of data and upstream).

        Raises:
          CheckpointError: if the disk refuses; earlier steps stay usable.
        """
        if step in self._manager.all_steps():
            return
        items = {
            "params": ocp.args.StandardSave(state.params),
            "opt": ocp.args.StandardSave(state.opt),
            "counters": ocp.args.StandardSave({"step": state.step, "key": state.key, "skipped": state.skipped}),
            "meta": ocp.args.JsonSave(meta),
        }
        if jax.tree.leaves(state.buffers):
            items["buffers"] = ocp.args.StandardSave(state.buffers)
        for name, tree in state.ema.items():
            items[f"ema_{name}"] = ocp.args.StandardSave(tree)
        self._guard(lambda: self._manager.save(step, args=ocp.args.Composite(**items), force=True), step)

    def delete(self, step: int) -> None:
        """Removes one complete step; nothing happens if there is none."""
        self.wait()
        if step in self._manager.all_steps():
            self._manager.delete(step)

    def restore(self, state: Any, step: int | None = None) -> tuple[Any, dict[str, Any]]:
        """(state, meta) of `step` (the newest by default), placed as the abstract `state` says.

        A newest step that cannot be read is passed over for the one before it; the meta then carries "fell_back_from".

        Raises:
          CheckpointError: if there is no usable step, or the saved leaves do not fit the state.
        """
        steps = self.steps() if step is None else [step]
        if not steps:
            raise CheckpointError(f"{self.folder}: no complete checkpoint; start the run without --resume")
        problem: Exception | None = None
        for candidate in reversed(steps):
            try:
                restored, meta = self._read(state, candidate)
            except Exception as error:
                problem = problem or error
                continue
            if candidate != steps[-1]:
                meta = meta | {"fell_back_from": steps[-1], "because": f"{type(problem).__name__}: {problem}"[:300]}
            return restored, meta
        raise CheckpointError(
            f"{self.folder}: step {steps[-1]} cannot be read into this config ({type(problem).__name__}: {problem});"
            " resume with the config that the run was started with"
        ) from problem

    def read_meta(self, step: int | None = None) -> dict[str, Any]:
        """The JSON facts of a step (the newest by default), without reading arrays."""
        steps = self.steps()
        if not steps:
            raise CheckpointError(f"{self.folder}: no complete checkpoint")
        chosen = steps[-1] if step is None else step
        return self._manager.restore(chosen, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]

    def wait(self) -> None:
        """Blocks until the last write is on disk.

        Raises:
          CheckpointError: if it failed.
        """
        self._guard(self._manager.wait_until_finished, None)

    def reached_preemption(self, step: int) -> bool:
        """True when the cluster asked this job to end (needs jax.distributed; all processes agree on the step)."""
        return self._manager.reached_preemption(step)

    def close(self) -> None:
        """Waits for pending writes and releases threads."""
        self.wait()
        self._manager.close()

    def _read(self, state: Any, step: int) -> tuple[Any, dict[str, Any]]:
        wanted = {
            "params": ocp.args.StandardRestore(state.params),
            "opt": ocp.args.StandardRestore(state.opt),
            "counters": ocp.args.StandardRestore({"step": state.step, "key": state.key, "skipped": state.skipped}),
            "meta": ocp.args.JsonRestore(),
        }
        if jax.tree.leaves(state.buffers):
            wanted["buffers"] = ocp.args.StandardRestore(state.buffers)
        for name, tree in state.ema.items():
            wanted[f"ema_{name}"] = ocp.args.StandardRestore(tree)
        items = self._manager.restore(step, args=ocp.args.Composite(**wanted))
        counters = items["counters"]
        restored = state.replace(
            step=counters["step"],
            key=counters["key"],
            skipped=counters["skipped"],
            params=items["params"],
            buffers=items["buffers"] if "buffers" in wanted else state.buffers,
            opt=items["opt"],
            ema={name: items[f"ema_{name}"] for name in state.ema},
        )
        return restored, dict(items["meta"])

    def _guard(self, action: Callable[[], Any], step: int | None) -> None:
        try:
            action()
        except (OSError, ValueError, RuntimeError) as error:
            what = "a checkpoint" if step is None else f"checkpoint {step}"
            raise CheckpointError(
                f"{self.folder}: {what} could not be written ({error}); free some disk space and run again with --resume"
                f" (usable steps: {self.steps()})"
            ) from error
