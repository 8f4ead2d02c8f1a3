"""The model folder that a stage leaves: what it built on, overlaid with what it trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def write_finished(
    target: Path,
    stage: str,
    finished: Any,
    base: Any,
    facts: Mapping[str, Any],
    provenance: Sequence[Mapping[str, Any]],
    overwrite: bool = True,
) -> Path:
    """Writes the networks and facts of `base`, overlaid with those of a finished stage, and tells what to know of them.

    Args:
      target: the folder.
      stage: registry name.
      finished: `train.stage.Finished`.
      base: the model that the stage was trained on, or None.
      facts: further entries of model.json, below those of `finished`.
      provenance: what model.json says of how the model came to be.
      overwrite: replace a model folder.

    Returns:
      the folder.

    Raises:
      ModelFolderError: if it cannot be written.
    """
    import jax

    from spresso_jax.checkpoints.weights import Network, save_model
    from spresso_jax.codec.networks import network_class
    from spresso_jax.stages.registry import outdated_after

    merged = dict(base.networks) if base else {}
    inherited = tuple(merged)
    for name, (config, params) in finished.networks.items():
        arrays = jax.tree.map(np.asarray, jax.device_get(params))
        merged[name] = Network(config=config, params=arrays, class_name=network_class(name).__name__)
    known = dict(base.facts) if base else {}
    # What is trained on a model is another model: its licence and provenance are handed on, its name is not.
    known.pop("name", None)
    outdated = outdated_after(stage, known.pop("outdated", ()), inherited, finished.networks)
    if outdated:
        facts = {**facts, "outdated": outdated}
        print(
            f"the model also holds {', '.join(outdated)}, trained on what this stage has changed: later stages can start from"
            " them, but the codec will not use them until they are trained again",
            flush=True,
        )
    written = {**known, **facts, **finished.facts, "provenance": list(provenance)}
    save_model(target, merged, written, overwrite=overwrite)
    for name, stored in finished.facts.items():
        for warning in stored.get("warnings", ()) if isinstance(stored, Mapping) else ():
            print(f"warning: {name}: {warning}", flush=True)
    print(f"model written to {target}", flush=True)
    return target
