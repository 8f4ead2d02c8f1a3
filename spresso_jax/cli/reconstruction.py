"""Averages of other lengths from the snapshots of a run, written as model folders.

Source: EDM2 section 3.2. A reconstructed model is to be validated, not assumed: the average of two LoRA factors is not
that of their product.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spresso_jax.checkpoints.snapshots import Snapshot, SnapshotError, SnapshotStore
from spresso_jax.cli.training import RunRequest, TrainingError


@dataclass(frozen=True)
class Mixture:
    """The coefficients by which stored averages give another one.

    Attributes:
      length: relative length sigma_rel of the wanted average.
      step: where it ends.
      parts: (snapshot, name of the average in it, coefficient).
    """

    length: float
    step: int
    parts: tuple[tuple[Snapshot, str, float], ...]

    @property
    def magnitude(self) -> float:
        """Sum of the coefficients' magnitudes: by so much the rounding of the snapshots can grow (they sum to 1)."""
        return sum(abs(coefficient) for _, _, coefficient in self.parts)

    def leaves(self) -> dict[str, np.ndarray]:
        """The wanted average, {parameter path: float32}, summed in float64 one parameter at a time.

        Raises:
          SnapshotError: if the snapshots do not hold the same parameters.
        """
        from spresso_jax.diffusion import ema

        names = self.parts[0][0].parameters()
        for snapshot in {id(snapshot): snapshot for snapshot, _, _ in self.parts}.values():
            if snapshot.parameters() != names:
                raise SnapshotError(
                    f"{snapshot.path} holds other parameters than {self.parts[0][0].path}: move one away"
                )
        coefficients = np.asarray([coefficient for _, _, coefficient in self.parts])
        return {
            path: ema.reconstruct([snapshot.parameter(name, path) for snapshot, name, _ in self.parts], coefficients)
            for path in names
        }

    def describe(self) -> str:
        """Lines that tell which snapshots take part, and how."""
        steps: dict[int, list[str]] = {}
        for snapshot, name, coefficient in self.parts:
            steps.setdefault(snapshot.step, []).append(f"{name}: {coefficient:+.4f}")
        lines = [f"average of length {self.length:g} at step {self.step} from {len(steps)} snapshots"]
        lines += [f"  step {step}  {'  '.join(row)}" for step, row in steps.items()]
        return "\n".join([*lines, f"sum of the coefficients' magnitudes: {self.magnitude:.3f}"])


def mixture(store: SnapshotStore, length: float, step: int | None = None) -> Mixture:
    """The mixture of a store's snapshots that comes closest to the average of `length` at `step` (the newest snapshot's).

    Raises:
      SnapshotError: if there is no snapshot, or none on either side of the step.
      ValueError: if no average has that length.
    """
    from spresso_jax.diffusion import ema

    gamma = ema.exponent(length)
    steps = store.steps()
    if not steps:
        raise SnapshotError(
            f"{store.folder}: the run has no snapshots; the diffusion stages keep them with --set loop.snapshot_every=STEPS"
        )
    end = steps[-1] if step is None else step
    if not steps[0] <= end <= steps[-1]:
        raise SnapshotError(f"--step {end}: the snapshots of {store.folder} go from step {steps[0]} to {steps[-1]}")
    sources = [(snapshot, name) for snapshot in store.read(until=end) for name in snapshot.lengths]
    times = [snapshot.step for snapshot, _ in sources]
    gammas = [ema.exponent(snapshot.lengths[name]) for snapshot, name in sources]
    coefficients = ema.posthoc_coefficients(times, gammas, end, gamma)
    return Mixture(length, end, tuple((*source, float(c)) for source, c in zip(sources, coefficients, strict=True)))


def reconstruct(
    run: Path, length: float, step: int | None = None, out: Path | None = None, data: Sequence[Path] = ()
) -> Path:
    """Writes a model folder like RUN/model whose trained networks are under the average of `length` at `step`.

    What the stage measures of its networks when it ends is measured again; where that needs data, it is what the run was
    trained on, or `data`.

    Args:
      run: a run that has left its model.
      out: default RUN/model-ema-<length>, with the step if one is given.

    Raises:
      SnapshotError, TrainingError, ModelFolderError, ConfigError: with one clear sentence.
    """
    from spresso_jax.checkpoints.weights import FACTS_FILE, load_model
    from spresso_jax.cli.model_folder import write_finished
    from spresso_jax.configuration import load_config
    from spresso_jax.stages import registry

    if not (run / "config.json").is_file():
        raise TrainingError(f"{run} is not a run folder (no config.json): give the folder of `spresso train --run`")
    found = mixture(SnapshotStore(run / "snapshots"), length, step)
    if not (run / "model" / FACTS_FILE).is_file():
        raise TrainingError(f"{run} has left no model yet: let the run end (spresso train ... --resume)")
    target = out or run / ("model-ema-" + f"{length:g}" + ("" if step is None else f"-step-{step}"))
    if target.exists():
        raise TrainingError(f"{target} already exists: choose another --out")
    config = load_config(str(run / "config.json"))
    print(found.describe(), flush=True)
    base = load_model(run / "model")
    stage = registry.build(config.stage, config, base)
    networks = _replaced({name: network.params for name, network in base.networks.items()}, found, run)
    request = RunRequest(config.stage, config, run, tuple(data) or data_of(run), upstream=str(run / "model"))
    finished = stage.finish(networks, lambda: _draw(request, base))
    *earlier, own = base.facts["provenance"]
    provenance = [*earlier, {**own, "steps": found.step, "ema_length": length}]
    return write_finished(target, config.stage, finished, base, {}, provenance, overwrite=False)


def data_of(run: Path) -> tuple[Path, ...]:
    """Folders of shards that a run was trained on, as far as it says so."""
    file = run / "request.json"
    if not file.is_file():
        return ()
    return tuple(Path(folder) for folder in json.loads(file.read_text(encoding="utf-8"))["data"])


def _draw(request: RunRequest, base: Any) -> Any:
    """Training batches from the first on, for a stage that measures its networks when it ends."""
    from spresso_jax.cli.upstream_data import prepare_feed

    lost = [str(folder) for folder in request.data if not folder.is_dir()]
    if lost or not request.data:
        raise TrainingError(
            f"{request.run}: stage {request.stage} measures its embeddings on training data, but"
            f" {'there is no folder ' + lost[0] if lost else 'the run does not say where that is'}: add --data SHARDS"
        )
    return prepare_feed(request, base)[0].draw(0)


def _replaced(networks: dict[str, Any], found: Mixture, run: Path) -> dict[str, Any]:
    """The networks of a model with the averaged leaves in the place of its own, on the device."""
    import jax

    from spresso_jax.checkpoints.trees import flatten, unflatten

    flat = flatten(networks)
    for path, leaf in found.leaves().items():
        if path not in flat or flat[path].shape != leaf.shape:
            raise TrainingError(
                f"{run}: its model and its snapshots differ at {path}: they are of different runs, or sizes were changed"
            )
        flat[path] = leaf
    return jax.device_put(unflatten(flat))
