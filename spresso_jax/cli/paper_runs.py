"""What `spresso paper` is given, sorted out before hours of decoding: finished models, peers, and what is not there yet."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spresso_jax.evaluate.paper.comparison import Absent

if TYPE_CHECKING:
    from spresso_jax.codec.codec import Codec
    from spresso_jax.evaluate.decoded import System
    from spresso_jax.evaluate.paper.diversity import Drawn

NO_QUANTIZER = "has no quantizer, so that it makes no codes"


@dataclass(frozen=True)
class GivenModel:
    """A model folder and what a table needs to know of it before anything is decoded.

    Attributes:
      folder: of the model.
      downsample: t, None for an AudioAE alone.
      trained: number of codebooks that it can send, 0 without a quantizer.
      finetuned: step 3 was done.
    """

    folder: Path
    downsample: int | None
    trained: int
    finetuned: bool


@dataclass(frozen=True)
class Given:
    """Everything that was named on the command line.

    Attributes:
      models, peers: that can be evaluated.
      absent: unfinished points and runs, and peers without weights.
    """

    models: tuple[GivenModel, ...] = ()
    peers: tuple[Path, ...] = ()
    absent: tuple[Absent, ...] = ()


@dataclass(frozen=True)
class Decoding:
    """How `spresso evaluate` is called; fields as its options.

    Attributes:
      data: sets of sounds.
      embeddings: NAME or NAME=SOURCE.
      options: further words for it.
    """

    data: tuple[str, ...]
    clips: int
    seed: int
    steps: int
    sampler: str
    embeddings: tuple[str, ...] = ()
    options: str = ""


def gather(paths: Sequence[str], where: Sequence[str] = ()) -> Given:
    """Sorts run folders, model folders, sweep folders and folders of peers.

    Args:
      paths: as typed; names of models of the package work as well.
      where: "axis=value" texts that choose points of sweeps.

    Raises:
      ValueError: naming the first path that is none of these, or an axis that no sweep has.
    """
    wanted = _wanted(where)
    models: list[Path] = []
    peers: list[Path] = []
    absent: list[Absent] = []
    axes: set[str] = set()
    for text in paths:
        path = Path(text).expanduser()
        if (path / "sweep.json").is_file():
            done, missing, known = _sweep(path, wanted)
            models += done
            absent += missing
            axes |= known
        elif (path / "spresso-peer.json").is_file():
            why = _unavailable(path)
            peers += [] if why else [path]
            absent += [why] if why else []
        elif (path / "config.json").is_file() and not (path / "model" / "model.json").is_file():
            absent.append(Absent(path.name, _state(path, None), _downsample(path.name)))
        else:
            models.append(_model_folder(text, path))
    unknown = sorted(wanted.keys() - axes)
    if unknown:
        raise ValueError(
            f"--where {unknown[0]}=...: "
            + (
                f"the sweeps have the axes {', '.join(sorted(axes))}"
                if axes
                else "no sweep was given, it chooses points of one"
            )
        )
    return Given(tuple(_given_model(folder) for folder in models), tuple(peers), tuple(absent))


def asked_codebooks(asked: Sequence[str], models: Sequence[GivenModel]) -> list[list[int]]:
    """The user's numbers of codebooks, one list a model; empty lists if there are none.

    Raises:
      ValueError: for texts that are no numbers, or as many as fit no models.
    """
    from spresso_jax.cli.evaluated_systems import numbers

    if not asked:
        return [[] for _ in models]
    if len(asked) not in (1, len(models)):
        raise ValueError(f"{len(asked)} times --codebooks for {len(models)} models: give it once, or once a model")
    return [numbers(asked[index if len(asked) > 1 else 0]) for index in range(len(models))]


def with_codebooks(
    given: Given, wanted: Mapping[int, Sequence[int]], asked: Sequence[str]
) -> tuple[Given, list[list[int]]]:
    """The models that make codes, and the numbers of codebooks of each.

    Args:
      given: of `gather`.
      wanted: t -> numbers of codebooks; a frame rate that is not in it gets all that were trained.
      asked: the user's own numbers, once for all models or once a model, instead of `wanted`.

    Returns:
      what is given, with what no model can send among the absent, and the numbers, one list a model.

    Raises:
      ValueError: as `asked_codebooks`.
    """
    models, numbers, absent = [], [], list(given.absent)
    for model, own in zip(given.models, asked_codebooks(asked, given.models), strict=True):
        title = _title(model.folder)
        if not model.trained:
            absent.append(Absent(title, NO_QUANTIZER, model.downsample))
            continue
        own = own or list(wanted.get(model.downsample, (model.trained,)))
        beyond = [m for m in own if m > model.trained]
        if beyond:
            told = f"has {model.trained} trained codebooks, not {', '.join(map(str, beyond))}"
            absent.append(Absent(title, told, model.downsample))
        kept = sorted(m for m in own if m <= model.trained)
        if kept:
            models.append(model)
            numbers.append(kept)
    return Given(tuple(models), given.peers, tuple(absent)), numbers


def drawn_points(
    models: Sequence[GivenModel], numbers: Sequence[Sequence[int]], draws: int, *, seed: int, steps: int, sampler: str
) -> list[Drawn]:
    """Continuous embeddings and codes of every model, each with `draws` seeds.

    Raises:
      ModelFolderError, ValueError: a model cannot be loaded, or lacks the codebooks.
    """
    from spresso_jax.cli.evaluated_systems import short_names
    from spresso_jax.codec.codec import Codec
    from spresso_jax.evaluate.paper import diversity
    from spresso_jax.evaluate.systems import codec_systems

    names = short_names([model.folder for model in models])
    points: list[Drawn] = []
    for model, own, name in zip(models, numbers, names, strict=True):
        codec = Codec.load(model.folder)

        def systems(own_seed: int, codec: Codec = codec, name: str = name, own: Sequence[int] = own) -> list[System]:
            return codec_systems(codec, name, codebooks=own or None, steps=steps, seed=own_seed, sampler=sampler)

        points += diversity.drawn_points(systems, draws, seed)
    return points


def refuse_duplicates(models: Sequence[GivenModel], numbers: Sequence[Sequence[int]] | None, by_step_3: bool) -> None:
    """Before anything is decoded: no two models for one row.

    Args:
      models: all of them.
      numbers: of codebooks, one list a model; None if continuous embeddings are compared.
      by_step_3: a model before and one after step 3 are two rows.

    Raises:
      ValueError: naming both folders.
    """
    seen: dict[tuple, GivenModel] = {}
    for index, model in enumerate(models):
        if model.downsample is None:
            continue
        for m in numbers[index] if numbers is not None else [0]:
            place = (model.downsample, m, model.finetuned if by_step_3 else None)
            if place in seen:
                at = f"t = {model.downsample}" + (f" with {m} codebooks" if m else "")
                raise ValueError(
                    f"{seen[place].folder} and {model.folder} are both at {at}: give one of them (of a sweep, choose with"
                    " --where axis=value)"
                )
            seen[place] = model


def evaluate_given(given: Given, numbers: Sequence[Sequence[int]] | None, decoding: Decoding, out: Path) -> list[Path]:
    """Runs `spresso evaluate` on models and on peers, in a process of its own, and returns the folders it filled.

    Args:
      given: what can be evaluated.
      numbers: of codebooks, one list a model; None leaves each model at its own.
      decoding: options.
      out: of the table; evaluations go below it, and are resumed.

    Raises:
      ValueError: without --data, or if the evaluation fails.
    """
    if not (given.models or given.peers):
        return []
    if not decoding.data:
        raise ValueError("give --data (the test set), or evaluation folders with --evaluation instead of runs")
    folders = []
    for words, folder in evaluate_commands(given, numbers, decoding, out):
        if subprocess.run(words, stdout=subprocess.DEVNULL).returncode:
            raise ValueError(f"the evaluation failed, see above; the same line goes on with it: {shlex.join(words)}")
        folders.append(folder)
    return folders


def evaluate_commands(
    given: Given, numbers: Sequence[Sequence[int]] | None, decoding: Decoding, out: Path
) -> list[tuple[list[str], Path]]:
    """Command lines of `evaluate_given` with the folder that each fills."""
    program = [sys.executable, "-m", "spresso_jax.cli.main", "evaluate"]
    common = ["--clips", str(decoding.clips), "--seed", str(decoding.seed)]
    common += [word for name in decoding.embeddings for word in ("--embedding", name)]
    common += shlex.split(decoding.options)
    commands = []
    if given.models:
        folder = out / "evaluation"
        words = [*program, *(str(model.folder) for model in given.models), "--out", str(folder)]
        words += [word for source in decoding.data for word in ("--data", source)]
        words += ["--steps", str(decoding.steps), "--sampler", decoding.sampler, "--gain-clips", "0"]
        words += [word for own in numbers or () for word in ("--codebooks", ",".join(map(str, own)))]
        commands.append(([*words, *common], folder))
    if given.peers:
        folder = out / "evaluation-peers"
        words = [*program, *map(str, given.peers), "--out", str(folder)]
        words += [word for source in decoding.data for word in ("--reference", source)]
        commands.append(([*words, *common], folder))
    return commands


def _wanted(where: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for text in where:
        axis, sign, value = text.partition("=")
        if not sign or not axis or not value:
            raise ValueError(f"--where {text!r}: write axis=value, for example depth=10")
        pairs[axis.strip()] = value.strip()
    return pairs


def _sweep(out: Path, wanted: Mapping[str, str]) -> tuple[list[Path], list[Absent], set[str]]:
    """Model folders of the finished points that were chosen, the others, and the sweep's axes."""
    from spresso_jax.sweeps import folder as folders

    plan = folders.read_plan(out)
    points = plan.get("points") if isinstance(plan, dict) else None
    if not isinstance(points, dict) or not all(isinstance(p, dict) and "settings" in p for p in points.values()):
        raise ValueError(f"{out / folders.FILE}: holds no points with settings: run the same `spresso sweep` again")
    models, absent, axes = [], [], {"seed"}
    for name, point in points.items():
        if Path(name).name != name or name == "..":
            raise ValueError(f"{out / folders.FILE}: {name!r} is no name of a point")
        settings = {**point["settings"], "seed": point.get("seed")}
        axes |= settings.keys()
        if any(str(settings.get(axis)) != value for axis, value in wanted.items() if axis in settings):
            continue
        if folders.state_of(out / name) == folders.DONE:
            models.append(out / name / "model")
        else:
            told = f"{name} {point.get('config', '')} {settings}"
            absent.append(Absent(f"{out.name}/{name}", _state(out / name, point.get("steps")), _downsample(told)))
    if not models and not absent:
        chosen = ", ".join(f"{axis}={value}" for axis, value in wanted.items())
        raise ValueError(f"{out}: no point has {chosen}: the points are {', '.join(list(points)[:8])}")
    return models, absent, axes


def _state(run: Path, steps: Any) -> str:
    from spresso_jax.sweeps import folder as folders

    state = folders.state_of(run)
    if state != folders.STARTED:
        return "not started"
    return f"not finished, at step {folders.checkpoint_step(run)}" + (f" of {steps}" if steps else "")


def _downsample(text: str) -> int | None:
    """t of a frame rate's name ("11hz") in a point's name, config or settings."""
    from spresso_jax.configuration import rates

    found = [word for word in re.findall(r"(?<![0-9])[0-9]+hz", text) if word in rates.RATES]
    return rates.RATES[found[0]]["downsample"] if found else None


def _unavailable(folder: Path) -> Absent | None:
    """A peer that had no weights; an unfinished one or a self-check is refused when it is evaluated."""
    from spresso_jax.evaluate.peers.record import UNAVAILABLE, PeerRecord, refuse_untabled

    record = PeerRecord.read(folder)
    if record.status == UNAVAILABLE:
        return Absent(folder.name, f"{UNAVAILABLE} ({record.detail})", peer=record.peer)
    refuse_untabled(folder)
    return None


def _model_folder(text: str, path: Path) -> Path:
    from spresso_jax.checkpoints.weights import find_model_folder

    if (path / "model" / "model.json").is_file():
        return path / "model"
    if (path / "scores.json").is_file():
        raise ValueError(f"{path} is an evaluation: give it with --evaluation {path}")
    folder = find_model_folder(text)
    if not (folder / "model.json").is_file():
        raise ValueError(
            f"{folder} is no run, model, sweep or peer: it holds neither model.json nor config.json nor sweep.json"
        )
    return folder


def _given_model(folder: Path) -> GivenModel:
    from spresso_jax.checkpoints.weights import load_facts
    from spresso_jax.codec.completeness import embeds, is_codec

    facts = load_facts(folder)
    point = facts.get("operating_point")
    if not embeds(facts) or not isinstance(point, Mapping) or not isinstance(point.get("downsample"), int):
        return GivenModel(folder, None, 0, False)
    trained = point.get("trained_codebooks", point.get("codebooks")) if is_codec(facts) else 0
    provenance = facts.get("provenance")
    last = provenance[-1] if isinstance(provenance, list) and provenance else {}
    finetuned = isinstance(last, Mapping) and last.get("stage") == "decoder_finetune"
    return GivenModel(folder, point["downsample"], trained if isinstance(trained, int) else 0, finetuned)


def _title(folder: Path) -> str:
    return folder.parent.name if folder.name == "model" else folder.name
