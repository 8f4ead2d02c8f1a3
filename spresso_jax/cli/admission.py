"""What a stage refuses before any work is done: an upstream model or data that it cannot build on.

Each of these trains to the end without an error, or fails only after hours of caching; so they are looked at first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from spresso_jax.cli.training import RunRequest, TrainingError, refuse_outdated

if TYPE_CHECKING:
    from spresso_jax.train.snapshots import AverageSnapshots

# Standard deviation of the data over sigma_data: beyond the first it is told, beyond the second refused. Sounds unlike those
# that the AudioAE was trained on do differ by a quarter; a factor of two is a mistake of units.
TOLD, REFUSED = 1.25, 2.0
BATCHES = 4


def admitted(request: RunRequest, upstream: Any, make: bool = True) -> RunRequest:
    """The request with what its vectors decide, if its stage reads vectors, once all that can be checked beforehand is.

    Args:
      request: what the user asked for.
      upstream: loaded model, or None.
      make: make embeddings of sounds that have none yet.

    Raises:
      TrainingError, ModelFolderError, ShardError, ValueError: as `check_upstream` and `vector_data.admit_vectors`.
    """
    from spresso_jax.cli.vector_data import admit_vectors
    from spresso_jax.stages.registry import entry

    check_upstream(request, upstream)
    if entry(request.stage).reads != "vectors":
        return request
    request = admit_vectors(request, upstream, make)
    if upstream is None:
        _check_stage(request, upstream)
    return request


def check_upstream(request: RunRequest, upstream: Any) -> None:
    """Refuses an upstream model, or a config, that the stage cannot be trained on.

    Raises:
      TrainingError, ModelFolderError, ShardError, ValueError: naming the file or the field, what is wrong and the remedy.
    """
    from spresso_jax.stages.registry import entry

    found = entry(request.stage)
    if found.needs and upstream is None and not found.alone:
        raise TrainingError(f"stage {request.stage} needs --upstream MODEL with {', '.join(found.needs)}")
    if upstream is None:
        return
    missing = [name for name in found.needs if name not in upstream.networks]
    if missing:
        raise TrainingError(f"{request.upstream} lacks {', '.join(missing)}, which stage {request.stage} needs")
    refuse_outdated(request, upstream)
    if "audio_ae" in found.needs:
        _check_statistics(request, upstream)
        _check_caches(request, upstream)
    if "quantizer" in found.needs:
        from spresso_jax.codec.completeness import check_quantizer

        check_quantizer(upstream.facts, str(request.upstream))
    # What CLAP is built with depends on the captions, which have not been read yet.
    if found.reads != "captioned_clips":
        _check_stage(request, upstream)


def _check_statistics(request: RunRequest, upstream: Any) -> None:
    """The latents' statistics must have been measured, and be those that the config counts on."""
    from spresso_jax.checkpoints.weights import ModelFolderError
    from spresso_jax.codec.latent_codec import measured_statistics

    channels = int(upstream.networks["audio_ae"].config.get("latent_channels", 128))
    try:
        measured_statistics(upstream.facts, channels)
        measured = float(upstream.facts["latent_statistics"]["sigma_data"])
    except (ModelFolderError, KeyError, TypeError, ValueError) as error:
        detail = str(error) if isinstance(error, ModelFolderError) else "latent_statistics must hold sigma_data"
        raise TrainingError(
            f"{request.upstream}: the statistics of its latents were never measured ({detail}); the stage audio_ae measures"
            " them when it ends: train that first"
        ) from error
    assumed = request.config.get("diffusion", {}).get("sigma_data", measured)
    if abs(assumed - measured) > 1e-6:
        raise TrainingError(
            f"diffusion.sigma_data is {assumed:g}, but the latents of {request.upstream} are standardised to {measured:g}: "
            f"--set diffusion.sigma_data={measured:g}"
        )


def _check_caches(request: RunRequest, upstream: Any) -> None:
    """Folders of latents, where they are given in the place of sounds, must be this AudioAE's and this CLAP's."""
    from data_pipeline.records import META, check_fingerprint, read_meta
    from spresso_jax.cli.upstream_data import made_by

    for path in request.data:
        if (path / META).is_file() and read_meta(path).get("kind") == "arrays":
            check_fingerprint(path, made_by(upstream, "audio_ae", "clap"))


def _check_stage(request: RunRequest, upstream: Any) -> None:
    """The stage must build, with networks that are gone on with in the sizes of the config, and averages to keep."""
    import jax

    from spresso_jax.stages import registry
    from spresso_jax.train.state import check_inherited

    stage = registry.build(request.stage, request.config, upstream)
    check_inherited(stage, jax.eval_shape(stage.init, jax.random.key(0)))
    snapshots_of(request, stage)


def snapshots_of(request: RunRequest, stage: Any) -> AverageSnapshots:
    """What keeps the averages of a run, as its config says; touches no file yet.

    Raises:
      ValueError: if the config asks for snapshots that the stage cannot give.
    """
    from spresso_jax.checkpoints.snapshots import SnapshotStore
    from spresso_jax.train.snapshots import AverageSnapshots

    loop = request.config.loop
    store = SnapshotStore(request.run / "snapshots", loop.snapshot_dtype)
    return AverageSnapshots(store, stage.ema_lengths, loop.snapshot_every)


def check_deviation(draw: Callable[[int], Iterator[Mapping[str, np.ndarray]]], config: Any) -> str | None:
    """Compares the standard deviation of the first training latents with `diffusion.sigma_data`.

    Args:
      draw: start step -> batches, as `Feed.draw`; batches without latents are not looked at.
      config: of the stage.

    Returns:
      a sentence if they differ by more than a quarter, else None.

    Raises:
      TrainingError: if one is more than twice the other.
    """
    if "diffusion" not in config:
        return None
    count, total, squares = 0, 0.0, 0.0
    batches = draw(0)
    try:
        for _ in range(BATCHES):
            batch = next(batches, None)
            if batch is None or "latent" not in batch:
                break
            sound = np.asarray(batch["latent"], np.float64)[np.asarray(batch["weight"]) > 0]
            count, total, squares = count + sound.size, total + sound.sum(), squares + np.square(sound).sum()
    finally:
        if hasattr(batches, "close"):
            batches.close()
    if not count:
        return None
    sigma_data = float(config.diffusion.sigma_data)
    deviation = float(np.sqrt(max(squares / count - (total / count) ** 2, 0.0)))
    if sigma_data / TOLD <= deviation <= sigma_data * TOLD:
        return None
    said = f"the latents of the first batches have a standard deviation of {deviation:.3g}, but sigma_data is {sigma_data:g}"
    if not sigma_data / REFUSED < deviation < sigma_data * REFUSED:
        raise TrainingError(
            f"{said}: noise levels and loss weights would not fit. Were they standardised with other statistics? Make the"
            " cache of latents again"
        )
    return f"{said}: these sounds are unlike those that the AudioAE's statistics were measured on"
