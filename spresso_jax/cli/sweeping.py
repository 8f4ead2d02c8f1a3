"""Plans a sweep, trains its missing points by `spresso train`, or writes them as a SLURM array."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spresso_jax.cli.training import RunRequest, as_paths, describe
from spresso_jax.configuration import flat_keys, load_config, load_sweep, to_plain
from spresso_jax.sweeps import folder as folders
from spresso_jax.sweeps import grid
from spresso_jax.sweeps.grid import Point, Sweep, SweepError

# What stages read that is made from the shards and shared by all points; other stages read the shards themselves.
_CACHED = ("latents", "vectors", "coded_latents")


@dataclass(frozen=True)
class SweepRequest:
    """What the user asked for; fields as the options of `spresso sweep run`."""

    sweep: str
    data: tuple[Path, ...]
    out: Path
    upstream: str | None = None
    axes: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A checked sweep.

    Attributes:
      out: folder of the sweep.
      names: points of this request, in order; `contents` may hold others that earlier requests added.
      contents: of `sweep.json`.
    """

    out: Path
    names: tuple[str, ...]
    contents: Mapping[str, Any]

    def unfinished(self) -> list[str]:
        """Names of this request's points whose model is not written yet."""
        return [name for name in self.names if folders.state_of(self.out / name) != folders.DONE]


def plan(request: SweepRequest) -> Plan:
    """Expands, checks and costs a sweep; writes nothing.

    Raises:
      SweepError, ConfigError, TrainingError, ModelFolderError: before anything is trained, naming point, key or file.
    """
    sweep = grid.with_values(grid.read_sweep(request.sweep, load_sweep(request.sweep)), request.axes)
    points = grid.points(sweep, request.overrides)
    configs = {point.name: load_config(point.config, point.overrides) for point in points}
    other = [name for name, config in configs.items() if config.stage != sweep.stage]
    if other:
        raise SweepError(f"sweep {sweep.name}: {other[0]} has a config of another stage than {sweep.stage}")
    data = tuple(path.resolve() for path in as_paths(request.data))
    describe(RunRequest(sweep.stage, configs[points[0].name], request.out, data, request.upstream))
    for name, config in configs.items():
        folders.refuse_changes(request.out / name, flat_keys(config))
    upstream, source = _source(data, request.upstream)
    # Twice: what cannot share the folder is better said before the operations of every point are counted.
    folders.merged(request.out, folders.make_plan(sweep, request.overrides, (), source))
    planned = _planned(request.out, sweep, points, configs, upstream)
    contents = folders.merged(request.out, folders.make_plan(sweep, request.overrides, planned, source))
    return Plan(request.out, tuple(configs), contents)


def show(planned: Plan) -> None:
    """Prints the grid: parameters, operations, estimated time and state of every point."""
    from rich.console import Console
    from rich.table import Table

    from spresso_jax.sweeps.collect import millions
    from spresso_jax.sweeps.speed import clock, speed_of

    points, unfinished = planned.contents["points"], planned.unfinished()
    speed = speed_of(planned.out, planned.contents) if unfinished else None
    table = Table(title=f"{planned.contents['name']}: points of {planned.out}")
    table.add_column("point", no_wrap=True)
    for title in ("parameters", "trained", "GFLOP a step", "steps", "time left", "state"):
        table.add_column(title, justify="right", no_wrap=True)
    total = 0.0
    for name in planned.names:
        point, run = points[name], planned.out / name
        left = speed.remaining_seconds(run, point) if speed else 0.0
        total += left
        state = folders.state_of(run)
        table.add_row(
            name, millions(point["parameters"]), millions(point["trained"]), f"{sum(point['flops'].values()) / 1e9:.4g}",
            str(point["steps"]), clock(left) if left else "",
            f"at step {folders.checkpoint_step(run)}" if state == folders.STARTED else state,
        )  # fmt: skip
    console = Console()
    console.width = max(console.width, 110)
    console.print(table)
    if speed:
        print(f"to train: {len(unfinished)}, about {clock(total)} one after another; {speed.source}", flush=True)
    else:
        print(f"every point is done; next: {shlex.join(['spresso', 'sweep', 'collect', str(planned.out)])}", flush=True)


def train_missing(planned: Plan) -> int:
    """Trains the points that are not done, each in its own process; the exit status of the program."""
    from spresso_jax.sweeps.local import STOPPED, run_all

    folders.write_plan(planned.out, planned.contents)
    commands = [(name, train_command(planned, name)) for name in planned.unfinished()]
    outcome = run_all(commands, lambda text: print(text, flush=True))
    if outcome.failed:
        told = ", ".join(f"{name} (exit status {status})" for name, status in outcome.failed.items())
        print(f"error: {len(outcome.failed)} of {len(commands)} points failed: {told}", file=sys.stderr)
    if outcome.interrupted:
        print(f"stopped at {outcome.interrupted}. Go on with:\n  {shlex.join(['spresso', *sys.argv[1:]])}", flush=True)
        return STOPPED
    if outcome.failed:
        print(f"the same line trains them again:\n  {shlex.join(['spresso', *sys.argv[1:]])}", file=sys.stderr)
        return 2
    if commands:
        print(f"all points are done; next: {shlex.join(['spresso', 'sweep', 'collect', str(planned.out)])}", flush=True)
    return 0


def write_slurm(planned: Plan, target: Path, options: str, at_once: int) -> None:
    """Writes the array of the points that are not done and says how to submit it."""
    from spresso_jax.sweeps import slurm

    out, names = planned.out.resolve(), planned.unfinished()
    lines = [slurm.point_line(out / name, train_command(planned, name, resume=True)) for name in names]
    reads = _reads(planned.contents)
    first = [*_program(), "sweep", "prepare", str(out)] if reads in _CACHED else []
    written = slurm.write_array(target, planned.contents["name"], lines, options, at_once, first)
    folders.write_plan(planned.out, planned.contents)
    print(f"array of {len(lines)} in {written[0]}; submit with:\n  {shlex.quote(str(written[-1]))}", flush=True)


def prepare(out: Path) -> None:
    """Makes the caches that the points of the sweep in `out` read, so that points that start together find them.

    Raises:
      SweepError, TrainingError, ShardError: naming the file.
    """
    from spresso_jax.checkpoints.weights import load_model
    from spresso_jax.cli.upstream_data import prepare_feed

    contents = folders.read_plan(out)
    if _reads(contents) not in _CACHED:
        print(f"stage {contents['stage']} reads the shards themselves: nothing to prepare")
        return
    source, seen = contents["source"], set()
    upstream = load_model(source["upstream"])
    for name, point in contents["points"].items():
        if setting_key(point) in seen:
            continue
        seen.add(setting_key(point))
        config = load_config(point["config"], point["overrides"])
        data = tuple(map(Path, source["data"]))
        prepare_feed(RunRequest(contents["stage"], config, out.resolve() / name, data, source["upstream"]), upstream)
    print(f"caches of {out} are ready", flush=True)


def train_command(planned: Plan, name: str, resume: bool | None = None) -> list[str]:
    """The `spresso train` of one point, with absolute paths; `resume` None: if the point is started."""
    point, source, run = planned.contents["points"][name], planned.contents["source"], planned.out.resolve() / name
    file, sign, preset = point["config"].partition(":")
    file = str(Path(file).resolve()) if file.endswith(".py") else file
    words = [*_program(), "train", planned.contents["stage"], "--config", f"{file}{sign}{preset}", "--run", str(run)]
    for path in source["data"]:
        words += ["--data", path]
    if source["upstream"]:
        words += ["--upstream", source["upstream"]]
    for text in point["overrides"]:
        words += ["--set", text]
    started = folders.state_of(run) == folders.STARTED
    return [*words, "--resume"] if resume or resume is None and started else words


def setting_key(point: Mapping[str, Any]) -> str:
    """What a point is but for its seed, which changes neither its cost nor what it reads."""
    return shlex.join([point["config"], *(text for text in point["overrides"] if not text.startswith("seed="))])


def _planned(
    out: Path, sweep: Sweep, points: list[Point], configs: Mapping[str, Any], upstream: Any
) -> list[folders.PlannedPoint]:
    """Every point with its cost; what an earlier plan has counted is not counted again."""
    before = folders.begun_plan(out)
    costs = {setting_key(entry): entry for entry in before["points"].values()} if before else {}
    planned = []
    for point in points:
        key = setting_key({"config": point.config, "overrides": point.overrides})
        if key not in costs:
            costs[key] = _cost(sweep.stage, configs[point.name], upstream)
        cost = costs[key]
        planned.append(
            folders.PlannedPoint(
                point, int(configs[point.name].loop.steps), cost["parameters"], cost["trained"], cost["flops"]
            )
        )
    return planned


def _cost(stage: str, config: Any, upstream: Any) -> dict[str, Any]:
    """Parameters and operations of one config, from shapes, on the CPU: the trainings need the accelerator's memory."""
    import jax

    from spresso_jax.stages import registry
    from spresso_jax.train.estimate import stage_cost

    jax.config.update("jax_platforms", "cpu")
    cost = stage_cost(registry.build(stage, config, upstream), int(to_plain(config.loop)["accumulate"]))
    return {"parameters": cost.parameters, "trained": cost.trained, "flops": cost.flops}


def _source(data: tuple[Path, ...], upstream: str | None) -> tuple[Any, dict[str, Any]]:
    """(upstream model, what every point starts from)."""
    from spresso_jax.checkpoints.weights import find_model_folder, load_model

    source: dict[str, Any] = {"data": [str(path) for path in data], "upstream": None, "fingerprints": {}}
    if not upstream:
        return None, source
    model = load_model(upstream)
    source["upstream"] = str(Path(find_model_folder(upstream)).resolve())
    source["fingerprints"] = dict(model.facts.get("values", model.facts.get("fingerprints", {})))
    return model, source


def _reads(contents: Mapping[str, Any]) -> str:
    from spresso_jax.stages.registry import entry

    return entry(contents["stage"]).reads


def _program() -> list[str]:
    """This program in this Python, whatever the shell's paths say by then."""
    return [sys.executable, "-m", "spresso_jax.cli.main"]
