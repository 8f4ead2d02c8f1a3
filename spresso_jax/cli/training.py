"""Runs one stage in one run folder: data, upstream model, loop, and the model folder that it leaves."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spresso_jax.configuration import to_plain


class TrainingError(ValueError):
    """The run cannot start or go on; the message names the file or field and the remedy."""


@dataclass(frozen=True)
class RunRequest:
    """What the user asked for.

    Attributes:
      stage: registry name.
      config: locked ConfigDict.
      run: run folder.
      data: folders of shards (audio; caches of what later stages read are made from them when needed), or for a stage that
        reads vectors `.npy` files.
      upstream: model folder of the earlier stages, or None.
      resume: go on from the newest checkpoint.
    """

    stage: str
    config: Any
    run: Path
    data: tuple[Path, ...]
    upstream: str | None = None
    resume: bool = False


def train(request: RunRequest) -> Path | None:
    """Trains and returns the model folder `RUN/model`, or None when the run was interrupted (checkpoint saved).

    Raises:
      TrainingError, ConfigError, ModelFolderError, ShardError, CheckpointError: with one clear sentence.
    """
    from spresso_jax.checkpoints.store import CheckpointStore
    from spresso_jax.checkpoints.weights import load_model
    from spresso_jax.cli.admission import admitted, check_deviation, snapshots_of
    from spresso_jax.cli.upstream_data import prepare_feed
    from spresso_jax.observe.metrics import MetricsWriter
    from spresso_jax.observe.previews import PreviewWriter
    from spresso_jax.stages import registry
    from spresso_jax.train import loop
    from spresso_jax.train.best import BestState
    from spresso_jax.train.mesh import make_mesh

    config, run = request.config, request.run
    if config.stage != request.stage:
        raise TrainingError(f"the config is for stage {config.stage}, not {request.stage}")
    if not request.data:
        raise TrainingError(f"stage {request.stage} needs --data FOLDER of shards (spresso data prepare makes one)")
    as_paths(request.data, registry.entry(request.stage).reads)
    upstream = load_model(request.upstream) if request.upstream else None
    _refuse_second_run(request)
    request = admitted(request, upstream)
    _enter_run_folder(request)
    feed, config, facts = prepare_feed(request, upstream)
    if warning := check_deviation(feed.draw, config):
        print(f"warning: {warning}", flush=True)
    stage = registry.build(request.stage, config, upstream)
    snapshots = snapshots_of(request, stage)
    store = CheckpointStore(run / "checkpoints", keep=config.loop.keep)
    if request.resume and not store.steps():
        print(f"{run}: no checkpoint yet; starting at step 0", flush=True)
    resume = request.resume and bool(store.steps())
    _check_unchanged(store, request, upstream, resume)
    best = BestState(CheckpointStore(run / "best", keep=1), stage.best, resume) if stage.best else None
    metrics = MetricsWriter(run / "metrics.jsonl", resume_step=store.steps()[-1] if resume else -1)
    periods = {key: value for key, value in to_plain(config.loop).items() if not key.startswith("snapshot_")}
    loop_config = loop.LoopConfig(seed=config.seed, **periods)
    io = loop.RunIO(
        draw=feed.draw,
        validation=feed.validation,
        store=store,
        metrics=metrics,
        write_preview=PreviewWriter(run / "previews"),
        meta={"stage": request.stage, "config": to_plain(config), "upstream": _identity(upstream)},
        resume_command=resume_command(request),
        best=best,
        snapshots=snapshots,
    )
    try:
        outcome = loop.run(stage, loop_config, io, make_mesh(**to_plain(config.mesh)), resume)
        if not outcome.finished:
            return None
        return _leave_model(request, stage, outcome, feed, upstream, facts)
    finally:
        metrics.close()
        store.close()
        if best is not None:
            best.store.close()


def resume_command(request: RunRequest) -> str:
    """The command line that goes on with this run."""
    parts = ["spresso", "train", request.stage, "--config", str(request.run / "config.json"), "--run", str(request.run)]
    for folder in request.data:
        parts += ["--data", str(folder)]
    if request.upstream:
        parts += ["--upstream", str(request.upstream)]
    return shlex.join([*parts, "--resume"])


def refuse_outdated(request: RunRequest, upstream: Any) -> None:
    """Raises TrainingError if the stage would build on a network that no longer fits the others of its model."""
    from spresso_jax.stages.registry import entry

    outdated = set(upstream.facts.get("outdated") or ()) if upstream is not None else set()
    wrong = [name for name in entry(request.stage).needs if name in outdated]
    if wrong:
        raise TrainingError(
            f"{request.upstream}: {', '.join(wrong)} was trained before other networks of this model changed; train the"
            f" stages between them and {request.stage} again first"
        )


def _refuse_second_run(request: RunRequest) -> None:
    if (request.run / "config.json").exists() and not request.resume:
        raise TrainingError(f"{request.run} already holds a run: add --resume to go on with it, or choose another --run")


def _enter_run_folder(request: RunRequest) -> None:
    """Creates the run folder and the files by which it explains itself."""
    run = request.run
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.json").write_text(json.dumps(to_plain(request.config), indent=2) + "\n", encoding="utf-8")
    with (run / "command.txt").open("a", encoding="utf-8") as file:
        file.write(shlex.join(["spresso", *sys.argv[1:]]) + "\n")
    asked = {
        "stage": request.stage,
        "data": [str(Path(folder).absolute()) for folder in request.data],
        "upstream": request.upstream,
    }
    (run / "request.json").write_text(json.dumps(asked, indent=2) + "\n", encoding="utf-8")
    (run / "environment.json").write_text(json.dumps(_environment(), indent=2) + "\n", encoding="utf-8")


def _environment() -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    import jax

    versions = {}
    for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "spresso-jax"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "devices": [f"{d.platform}:{d.device_kind}" for d in jax.devices()],
        "processes": jax.process_count(),
        "versions": versions,
    }


def _identity(upstream: Any) -> dict[str, str] | None:
    return None if upstream is None else dict(upstream.facts.get("values", upstream.facts.get("fingerprints", {})))


def _check_unchanged(store: Any, request: RunRequest, upstream: Any, resume: bool) -> None:
    """Refuses to go on with another upstream model: its frozen leaves are not in the checkpoint."""
    if not resume:
        return
    saved = store.read_meta()
    if saved.get("upstream") != _identity(upstream):
        raise TrainingError(
            f"{request.run} was trained on another upstream model than {request.upstream}; give the one of its command.txt"
        )


def _leave_model(
    request: RunRequest, stage: Any, outcome: Any, feed: Any, upstream: Any, facts: Mapping[str, Any]
) -> Path:
    """Writes RUN/model: the upstream networks and facts, overlaid with what this stage trained."""
    from spresso_jax.cli.model_folder import write_finished
    from spresso_jax.train.state import networks_of

    networks = networks_of(outcome.chosen, outcome.frozen, stage.chosen_ema)
    finished = stage.finish(networks, lambda: feed.draw(0))
    earlier = upstream.facts.get("provenance", []) if upstream else []
    provenance = [*earlier, _provenance(request, int(outcome.chosen.step))]
    return write_finished(request.run / "model", request.stage, finished, upstream, facts, provenance)


def _provenance(request: RunRequest, steps: int) -> dict[str, Any]:
    return {
        "stage": request.stage,
        "steps": steps,
        "seed": int(request.config.seed),
        "data": [Path(folder).name for folder in request.data],
    }


def as_paths(values: Sequence[str | Path], reads: str = "") -> tuple[Path, ...]:
    """Existing folders; or files, for a stage that reads vectors.

    Raises:
      TrainingError: for the first that does not exist.
    """
    paths = tuple(Path(value) for value in values)
    for path in paths:
        if path.is_file():
            if reads == "vectors":
                continue
            raise TrainingError(f"{path}: is a file, but a folder of shards is needed here (spresso data prepare makes one)")
        if not path.is_dir():
            raise TrainingError(
                f"{path}: no such folder; make shards with: spresso data prepare YOUR_SOUNDS --out {path}"
            )
    return paths


def describe(request: RunRequest) -> str:
    """What a run would do, after every check that needs no training.

    Raises:
      the errors that the run itself would raise before its first step.
    """
    from spresso_jax.checkpoints.weights import load_model
    from spresso_jax.cli.admission import admitted
    from spresso_jax.configuration import flat_keys
    from spresso_jax.stages.registry import entry

    paths = as_paths(request.data, entry(request.stage).reads)
    request = admitted(request, load_model(request.upstream) if request.upstream else None, make=False)
    lines = [f"stage {request.stage} -> {request.run}", f"data: {', '.join(map(str, paths))}"]
    lines += [f"{key} = {value}" for key, value in sorted(flat_keys(request.config).items())]
    return "\n".join(lines)
