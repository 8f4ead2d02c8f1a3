"""Columns of `spresso evaluate`: model folders, runs, peers and folders of decoded sounds; and the CLAP for retrieval."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from spresso_jax.evaluate.decoded import Clip, System
    from spresso_jax.evaluate.test_sets import ClipSet

SET = "{set}"


def is_model(argument: str) -> bool:
    """Whether it names a model folder, a run that holds one, or a model that comes with the package."""
    from spresso_jax.checkpoints.weights import FACTS_FILE, MODELS_FOLDER

    folder = model_folder(argument)
    return (folder / FACTS_FILE).is_file() or (not folder.exists() and (MODELS_FOLDER / argument).is_dir())


def model_folder(argument: str) -> Path:
    """RUN/model of a run, else the argument itself."""
    from spresso_jax.checkpoints.weights import FACTS_FILE

    folder = Path(argument).expanduser()
    inside = folder / "model"
    return inside if not (folder / FACTS_FILE).is_file() and (inside / FACTS_FILE).is_file() else folder


def decoded_systems(arguments: Sequence[str], sets: Sequence[ClipSet], clips: Sequence[Clip]) -> list[System]:
    """One column for each folder of decoded sounds, a peer's included.

    Args:
      arguments: folders whose files have the clips' names (SET/CLIP where there are several sets); or with "{set}" in
        them, which stands for each set's name.
      sets: whose clips `clips` are.

    Raises:
      ValueError: from `folder_system` and `peer_system`.
    """
    systems = []
    names = short_names([Path(argument.replace(SET, "")) for argument in arguments])
    for argument, name in zip(arguments, names, strict=True):
        if SET not in argument:
            system = _column(Path(argument).expanduser(), clips)
        else:
            parts = [_column(Path(argument.replace(SET, part.name)).expanduser(), part.clips) for part in sets]
            system = _one_after_the_other(parts, sets)
        if system.key.startswith("folder-"):
            system = dataclasses.replace(system, key=f"folder-{name}", label=name)
        systems.append(system)
    return systems


def incomplete_clips(arguments: Sequence[str], sets: Sequence[ClipSet]) -> tuple[list[ClipSet], int]:
    """The sets without the clips of which a folder has no file that can be read, and how many these are.

    They leave every system, so that all are measured on the same clips, and are counted in the sets.
    """
    from data_pipeline.audio_files import AudioFileError
    from spresso_jax.evaluate.systems import decoded_files

    kept, gone_in_all = [], 0
    for part in sets:
        gone: dict[str, list[str]] = {}
        for argument in arguments:
            folder = Path(argument.replace(SET, part.name)).expanduser()
            found = decoded_files(folder)
            inside = "" if SET in argument or len(sets) == 1 else f"{part.name}/"
            for clip in part.clips:
                path = found.get(f"{inside}{clip.name}")
                try:
                    if path is None:
                        gone.setdefault(f"no decoded file in {folder.name}", []).append(clip.name)
                    else:
                        read_mono(path)
                except AudioFileError as error:
                    gone.setdefault(f"decoded file in {folder.name}: {error.kind}", []).append(clip.name)
        kept.append(part.without(gone))
        gone_in_all += len(part.clips) - len(kept[-1].clips)
        if len(kept[-1].clips) < 2:
            raise ValueError(f"set {part.name}: {len(kept[-1].clips)} clips have decoded files, at least 2 are needed")
    return kept, gone_in_all


def _column(folder: Path, clips: Sequence[Clip]) -> System:
    from spresso_jax.evaluate.peers.record import RECORD, peer_system
    from spresso_jax.evaluate.systems import folder_system

    make = peer_system if (folder / RECORD).is_file() else folder_system
    return make(folder, clips, read_mono)


def _one_after_the_other(parts: Sequence[System], sets: Sequence[ClipSet]) -> System:
    """One column of the columns that a system has in each set; its bitrate is of all clips together.

    Raises:
      ValueError: if the folders of a peer hold different settings.
    """
    from spresso_jax.checkpoints.fingerprint import json_sha256

    first = parts[0]
    if any((part.key, part.frame_rate) != (first.key, first.frame_rate) for part in parts if part.key[:5] == "peer-"):
        raise ValueError(f"the sets' folders hold different peers: {', '.join(part.key for part in parts)}")
    starts = [sum(len(part.clips) for part in sets[:i]) for i in range(len(sets))]
    of_clip = [(i, start) for i, start in enumerate(starts) for _ in sets[i].clips]
    local = [clip for part in sets for clip in part.clips]

    def produce(batch: Sequence[Clip], indices: Sequence[int]) -> list[Any]:
        made = []
        for index in indices:
            which, start = of_clip[index]
            made += parts[which].produce([local[index]], [index - start])
        return made

    kbps, label = None, first.label
    if all(part.kbps is not None for part in parts):
        seconds = [sum(clip.seconds for clip in part.clips) for part in sets]
        kbps = sum((part.kbps or 0.0) * s for part, s in zip(parts, seconds, strict=True)) / sum(seconds)
        label = label.replace(f"{first.kbps:.3g} kbps", f"{kbps:.3g} kbps")
    return dataclasses.replace(
        first,
        label=label,
        produce=produce,
        kbps=kbps,
        fingerprint=json_sha256([part.fingerprint for part in parts])[:16],
    )


def read_mono(path: Path) -> Any:
    """[S] at 48 kHz of a sound file."""
    from data_pipeline.audio_files import read_audio

    return read_audio(path)[0]


def model_systems(
    models: Sequence[str],
    clips: Sequence[Clip],
    codebooks: Sequence[str],
    steps: int,
    sampler: str,
    seed: int,
    gain_clips: int,
    ceiling: str | None = None,
) -> tuple[list[System], dict[str, dict]]:
    """The linear codec, and columns and facts of every model folder; `ceiling` adds the AudioAE of one more.

    Models of one AudioAE share its column. A folder without a quantizer gives continuous embeddings alone; one without
    embeddings gives the AudioAE's column, and its gain if it has a DiT.
    """
    from spresso_jax.checkpoints.fingerprint import latent_id
    from spresso_jax.checkpoints.weights import find_model_folder, load_facts, load_model
    from spresso_jax.codec.codec import Codec
    from spresso_jax.codec.completeness import embeds, is_codec
    from spresso_jax.codec.latent_codec import LatentCodec
    from spresso_jax.evaluate.denoiser import measure_gain
    from spresso_jax.evaluate.systems import bound_system, codec_systems, linear_system

    if codebooks and len(codebooks) not in (1, len(models)):
        raise ValueError(f"{len(codebooks)} times --codebooks for {len(models)} models: give it once, or once a model")
    folders = [find_model_folder(model_folder(model)) for model in models]
    names = short_names(folders)
    systems: list[System] = [linear_system()]
    facts: dict[str, dict] = {}
    autoencoders: dict[bytes, tuple[str, LatentCodec]] = {}
    for index, (folder, name) in enumerate(zip(folders, names, strict=True)):
        known = load_facts(folder)
        complete = is_codec(known)
        wanted = numbers(codebooks[index if len(codebooks) > 1 else 0]) if codebooks else []
        facts[name] = {key: known.get(key) for key in ("name", "operating_point", "provenance", "licence", "finetuned")}
        identity = latent_id(known)
        facts[name]["latents"] = identity.hex()
        if identity not in autoencoders:
            autoencoders[identity] = (name, LatentCodec.load(folder))
        if embeds(known):
            codec = Codec.load(folder)
            wanted = (wanted or [codec.codebooks]) if complete else []
            systems += codec_systems(
                codec, name, codebooks=wanted, steps=steps, seed=seed, sampler=sampler, short_label=len(models) == 1
            )
        if "dit.safetensors" not in known["fingerprints"]:
            continue
        if "dit" in (known.get("outdated") or ()):
            typer.echo(
                f"{name}: no conditioning gain, its DiT was trained before its AudioAE or CLAP changed", err=True
            )
        elif gain_clips >= 2:
            part = clips[:gain_clips]
            typer.echo(f"{name}: conditioning gain on {len(part)} clips", err=True)
            model = load_model(folder, only=_gain_networks(known, complete))
            audio, captions = [c.audio for c in part], [c.caption for c in part]
            facts[name] |= measure_gain(model, audio, captions, codebooks=wanted, seed=seed)
    if ceiling is not None:
        folder = find_model_folder(model_folder(ceiling))
        if (identity := latent_id(load_facts(folder))) not in autoencoders:
            autoencoders[identity] = (short_names([folder])[0], LatentCodec.load(folder))
    for name, autoencoder in autoencoders.values():
        label = "AudioAE bound" if len(autoencoders) == 1 else f"{name}: AudioAE bound"
        systems.append(bound_system(autoencoder, name, label))
    return bounds_first(systems), facts


def _gain_networks(facts: dict, complete: bool) -> list[str]:
    present = [name.removesuffix(".safetensors") for name in facts["fingerprints"]]
    outdated = facts.get("outdated") or ()
    return [name for name in present if name not in outdated and not (complete and name == "clap")]


def bounds_first(systems: list[System]) -> list[System]:
    """The AudioAE bounds right after the linear codec, where the page and the table expect them."""
    order = {"source": 0, "linear": 1, "audio_ae": 2}
    return sorted(systems, key=lambda system: order.get(system.kind, 3))


def clap_space(clap: str | None, models: Sequence[str]) -> Any:
    """Space of the CLAP of `clap`, or of the first model that has one; None if there is none and none was asked for."""
    from spresso_jax.checkpoints.weights import load_facts, load_model

    folders = [str(model_folder(model)) for model in models]
    named = clap or next((f for f in folders if "clap.safetensors" in load_facts(f)["fingerprints"]), None)
    if named is None:
        return None
    from spresso_jax.evaluate.denoiser import clap_embedding
    from spresso_jax.evaluate.protocol import Space

    model = load_model(named, only=["clap"])
    if clap is None and model.networks["clap"].class_name == "TextConditioner":
        return None
    title = model.facts.get("name") or Path(named).name
    return Space("clap", f"CLAP of {title}", clap_embedding(model), similarity=True)


def holds_decoded(scores: Path) -> bool:
    """Whether a scores.json is there that names more than the sources."""
    import json

    return scores.is_file() and len(json.loads(scores.read_text(encoding="utf-8")).get("systems", [])) > 1


def short_names(folders: Sequence[Path]) -> list[str]:
    """Last parts of the paths, lengthened where two are equal (RUN/model is named after RUN)."""

    def name(folder: Path, parts: int) -> str:
        kept = [p for p in folder.resolve().parts if p not in ("/", "model")]
        return "-".join(kept[-parts:]) or "model"

    for parts in range(1, 8):
        names = [name(folder, parts) for folder in folders]
        if len(set(names)) == len(names):
            return names
    raise ValueError(f"the same model folder was given twice: {', '.join(map(str, folders))}")


def numbers(text: str) -> list[int]:
    try:
        numbers = sorted({int(part) for part in text.replace(" ", ",").split(",") if part})
    except ValueError as error:
        raise ValueError(f"--codebooks {text!r}: give whole numbers separated by commas, e.g. 4,12") from error
    if not numbers or numbers[0] < 1:
        raise ValueError(f"--codebooks {text!r}: give at least one positive number, e.g. 4,12")
    return numbers
