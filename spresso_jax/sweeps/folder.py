"""The folder of a sweep: `sweep.json` with every point and its cost, and a run folder for each point.

Points may be added later (deeper encoders, more seeds); what is there already must stay what it was, or a table would
mix settings.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spresso_jax.sweeps.grid import Point, Sweep, SweepError

FILE = "sweep.json"
DONE, STARTED, MISSING = "done", "started", "missing"


@dataclass(frozen=True)
class PlannedPoint:
    """A point with what its table needs.

    Attributes:
      point: of the grid.
      steps: of its training.
      parameters, trained: elements in all, and those that are trained.
      flops: dtype -> operations of one update.
    """

    point: Point
    steps: int
    parameters: int
    trained: int
    flops: Mapping[str, float]


def state_of(run: Path) -> str:
    """"done" (its model is written), "started" or "missing"."""
    if model_file(run).is_file():
        return DONE
    return STARTED if (run / "config.json").is_file() else MISSING


def model_file(run: Path) -> Path:
    """The file that exists when a run is done; model folders appear at once or not at all."""
    return run / "model" / "model.json"


def checkpoint_step(run: Path) -> int:
    """Step of the newest checkpoint, 0 if there is none."""
    folder = run / "checkpoints"
    return max((int(path.name) for path in folder.iterdir() if path.name.isdigit()), default=0) if folder.is_dir() else 0


def refuse_changes(run: Path, config: Mapping[str, Any]) -> None:
    """Raises SweepError if `run` was started with other settings than the flat `config` (dotted key -> value)."""
    path = run / "config.json"
    if not path.is_file():
        return
    try:
        saved = flat(json.loads(path.read_text(encoding="utf-8")))
    except json.JSONDecodeError as error:
        raise SweepError(f"{path}: not a readable config.json ({error}); remove {run} to train the point anew") from error
    wanted = json.loads(json.dumps(dict(config)))
    changed = sorted(key for key in saved.keys() | wanted.keys() if saved.get(key) != wanted.get(key))
    if changed:
        told = ", ".join(f"{key} was {saved.get(key)!r} and is now {wanted.get(key)!r}" for key in changed[:3])
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise SweepError(f"{run.name}: {told}{more}; take the old settings, another --out, or remove {run}")


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys and values of the leaves of nested dicts."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def make_plan(
    sweep: Sweep, overrides: Sequence[str], planned: Sequence[PlannedPoint], source: Mapping[str, Any]
) -> dict[str, Any]:
    """The contents of `sweep.json`.

    Args:
      sweep: the grid.
      overrides: the user's own changes of every point.
      planned: its points.
      source: what every point starts from: {"data": [...], "upstream": ..., "fingerprints": {...}}.
    """
    entries = {}
    for p in planned:
        costs = {"steps": p.steps, "parameters": p.parameters, "trained": p.trained, "flops": dict(p.flops)}
        entries[p.point.name] = {**asdict(p.point), **costs}
    plan = {
        "name": sweep.name,
        "stage": sweep.stage,
        "config": sweep.config,
        "overrides": [*sweep.overrides, *overrides],
        "axes": list(sweep.axes),
        "metrics": dict(sweep.metrics),
        "x": sweep.x,
        "lines": sweep.lines,
        "source": dict(source),
        "points": entries,
    }
    return json.loads(json.dumps(plan))


def begun_plan(out: Path) -> dict[str, Any] | None:
    """The plan of a sweep that has trained something; None if there is none yet, so that a first mistake can be mended."""
    if not (out / FILE).is_file():
        return None
    plan = read_plan(out)
    return plan if any(state_of(out / name) != MISSING for name in plan["points"]) else None


def merged(out: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    """The plan with the points that the folder holds already beside its own.

    Raises:
      SweepError: if the folder holds a sweep of other settings, data or upstream model, naming what differs.
    """
    before = begun_plan(out)
    if before is None:
        return dict(plan)
    check_compatible(out, before, plan)
    return {**plan, "points": {**before["points"], **plan["points"]}}


def write_plan(out: Path, plan: Mapping[str, Any]) -> None:
    """Writes `sweep.json`, at once or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    temporary = out / f".{FILE}.{os.getpid()}"
    temporary.write_text(json.dumps(plan, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, out / FILE)


def check_compatible(out: Path, before: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
    """Raises SweepError if two plans cannot share a folder, naming what differs."""
    pairs = {
        "stage": (before["stage"], plan["stage"]),
        "preset": (before["config"], plan["config"]),
        "--set": (before["overrides"], plan["overrides"]),
        "axes": (before["axes"], plan["axes"]),
        "--data": (before["source"]["data"], plan["source"]["data"]),
        "--upstream": (before["source"]["fingerprints"], plan["source"]["fingerprints"]),
    }
    for what, (old, new) in pairs.items():
        if old != new:
            shown = (before["source"]["upstream"], plan["source"]["upstream"]) if what == "--upstream" else (old, new)
            raise SweepError(
                f"{out / FILE} has another {what}: {shown[0]}, now {shown[1]}; points of both cannot share a table, choose"
                " another --out"
            )


def read_plan(out: Path) -> dict[str, Any]:
    """What `write_plan` wrote.

    Raises:
      SweepError: if it is missing or unreadable.
    """
    path = out / FILE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SweepError(f"{path}: no such file: give a folder that `spresso sweep` made (its --out)") from error
    except json.JSONDecodeError as error:
        raise SweepError(f"{path}: not JSON ({error}); run the same `spresso sweep` again after removing it") from error
