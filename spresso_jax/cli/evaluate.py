"""`spresso evaluate` and `spresso report`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spresso_jax.cli.errors import user_errors

if TYPE_CHECKING:
    from spresso_jax.evaluate.decoded import Clip, System


def register(app: typer.Typer) -> None:
    """Adds the commands to the program."""
    app.command("evaluate")(evaluate)
    app.command("report")(report)


def evaluate(
    models: Annotated[
        list[str], typer.Argument(help="Model folders or names; with --reference, folders of decoded sounds.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for decoded sounds and scores.json; resumed if it exists.")],
    data: Annotated[Path | None, typer.Option(help="Folder of sounds, or of shards (their val split).")] = None,
    reference: Annotated[Path | None, typer.Option(help="Folder of reference sounds for decoded folders.")] = None,
    clips: Annotated[int, typer.Option(min=2, help="Number of clips, drawn with --seed.")] = 100,
    steps: Annotated[int, typer.Option(min=2, help="Steps of the sampler.")] = 64,
    sampler: Annotated[str, typer.Option(help="heun, euler or dpm_solver_pp_2m.")] = "heun",
    codebooks: Annotated[
        list[str] | None, typer.Option(help="Numbers of codebooks, e.g. 4,12; once for all models, or once a model.")
    ] = None,
    clap: Annotated[str | None, typer.Option(help="Model folder whose CLAP is used (default: the first).")] = None,
    candidates: Annotated[int, typer.Option(min=2, help="Sources that each decoded clip is compared with.")] = 24,
    gain_clips: Annotated[int, typer.Option(min=0, help="Clips for the conditioning gain; 0 leaves it out.")] = 64,
    gain_only: Annotated[bool, typer.Option("--gain-only", help="Measure that gain alone; decode nothing.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of clips, of decoding and of all draws.")] = 0,
) -> None:
    """Decodes held-out clips with every system and measures them: distances, retrieval, conditioning gain."""
    with user_errors():
        from spresso_jax.evaluate import gain_tables, protocol, tables

        if (data is None) == (reference is None):
            raise ValueError("give either --data (sounds to decode) or --reference (sounds beside decoded folders)")
        if gain_only and (reference is not None or gain_clips < 2):
            raise ValueError("--gain-only needs models, --data and at least 2 --gain-clips")
        if gain_only and _holds_decoded(out / protocol.SCORES):
            raise ValueError(f"{out} holds an evaluation of decoded sounds: give another --out to --gain-only")
        chosen = load_clips(reference or data, clips, seed)
        facts: dict[str, dict] = {}
        spaces = [protocol.MEL_SPACE]
        systems: list[System] = [protocol.source_system()]
        if reference is not None:
            from spresso_jax.evaluate.systems import folder_system

            systems += [folder_system(folder, chosen, _read_mono) for folder in models]
        else:
            made, facts = _model_systems(models, chosen, codebooks or [], steps, sampler, seed, gain_clips)
            systems += [] if gain_only else made
        if not gain_only:
            clap_space = _clap_space(clap, [] if reference is not None else models)
            if clap_space is not None:
                spaces.append(clap_space)
            rates = [s.frame_rate for s in systems if s.frame_rate] or [100.0 / 9.0, 1.0]
            systems += protocol.controls(chosen, rates, seed)
        extra = {"data": str(reference or data)}
        if reference is None:
            extra |= {"steps": steps, "sampler": sampler, "decode_seed": f"{seed} + clip index"}
        options = protocol.Options(seed=seed, candidates=candidates, extra=extra)
        scores = protocol.evaluate(
            chosen, systems, out, options=options, spaces=spaces, models=facts, progress=_progress()
        )
        typer.echo(gain_tables.gain_markdown(scores) if gain_only else tables.markdown_table(scores))
        typer.echo(f"wrote {out / protocol.SCORES} and {out / protocol.TABLE}; next: spresso report {out}")


def report(
    out: Annotated[Path, typer.Argument(help="Folder that `spresso evaluate` filled.")],
    runs: Annotated[
        list[Path] | None, typer.Option("--runs", help="Run folder for its loss curves; repeat for every stage.")
    ] = None,
    sounds: Annotated[int, typer.Option(min=1, help="Rows of the page.")] = 12,
    page: Annotated[Path | None, typer.Option(help="The file to write; default OUT/index.html.")] = None,
) -> None:
    """Writes one self-contained page: players and spectrograms, the table of figures, loss curves."""
    with user_errors():
        from spresso_jax.evaluate.report import LARGE_BYTES, write_report

        path = write_report(out, runs or [], sounds=sounds, page=page)
        size = path.stat().st_size
        typer.echo(f"wrote {path} ({size / 1e6:.1f} MB)")
        if size > LARGE_BYTES:
            typer.echo("that is large for an e-mail attachment: fewer --sounds make it smaller")


def load_clips(folder: Path, count: int, seed: int) -> list[Clip]:
    """A seeded choice of clips from a folder of shards (val split) or of sounds, cut to 5 s, in the order of names.

    Of a folder of sounds whose table names a val or test split, only that split is taken. Silent and unreadable files
    are skipped, and said so.

    Raises:
      ValueError: if the folder does not exist or holds fewer than two usable sounds.
    """
    from data_pipeline.records import splits_of

    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder: give a folder of sounds or of shards")
    splits = splits_of(folder)
    found = _from_shards(folder, splits, count, seed) if splits else _from_files(folder, count, seed)
    if len(found) < 2:
        raise ValueError(f"{folder}: {len(found)} usable sounds found, at least 2 are needed")
    return found


def _from_shards(folder: Path, splits: dict, count: int, seed: int) -> list[Clip]:
    import numpy as np

    from data_pipeline.loader import Source, count_records, ordered_clips
    from spresso_jax.evaluate.decoded import Clip, cut
    from spresso_jax.shapes import CLIP_SAMPLES

    split = next((name for name in ("val", "test") if name in splits), None)
    if split is None:
        raise ValueError(f"{folder}: no val or test split (splits: {', '.join(splits)}): figures need held-out clips")
    source = Source(str(folder), split)
    total = count_records(source)
    wanted = set(np.random.default_rng(seed).permutation(total)[:count].tolist())
    clips = []
    for index, clip in enumerate(ordered_clips(source, CLIP_SAMPLES, crop="most_active")):
        if index in wanted:
            audio = cut(clip["audio"][: clip["valid"], 0])
            clips.append(Clip(f"{clip['id']}", audio, clip["caption"]))
    return clips


def _from_files(folder: Path, count: int, seed: int) -> list[Clip]:
    import numpy as np

    from data_pipeline.audio_files import AudioFileError, read_clip
    from data_pipeline.catalogues import catalogue, find_tables
    from spresso_jax.evaluate.decoded import Clip, cut

    entries = [entry for entry in catalogue(folder, find_tables(folder)) if not entry.error]
    held_out = [entry for entry in entries if entry.split in ("val", "test", "validation", "eval")]
    entries = held_out or entries
    clips: list[Clip] = []
    for index in np.random.default_rng(seed).permutation(len(entries)):
        if len(clips) == count:
            break
        entry = entries[index]
        try:
            audio, _, _ = read_clip(Path(entry.root) / entry.uri)
        except AudioFileError as error:
            typer.echo(f"skipped: {error}", err=True)
            continue
        captions = list(entry.captions)
        name = Path(entry.uri).with_suffix("").as_posix()
        clips.append(Clip(name, cut(audio), captions[0] if captions else ""))
    return sorted(clips, key=lambda clip: clip.name)


def _read_mono(path: Path) -> Any:
    from data_pipeline.audio_files import read_audio

    return read_audio(path)[0]


def _model_systems(
    models: Sequence[str],
    clips: Sequence[Clip],
    codebooks: Sequence[str],
    steps: int,
    sampler: str,
    seed: int,
    gain_clips: int,
) -> tuple[list[System], dict[str, dict]]:
    """Columns and facts of every model folder.

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
    folders = [find_model_folder(model) for model in models]
    names = _short_names(folders)
    systems: list[System] = [linear_system()]
    facts: dict[str, dict] = {}
    autoencoders: dict[bytes, tuple[str, LatentCodec]] = {}
    for index, (folder, name) in enumerate(zip(folders, names, strict=True)):
        known = load_facts(folder)
        complete = is_codec(known)
        wanted = _numbers(codebooks[index if len(codebooks) > 1 else 0]) if codebooks else []
        facts[name] = {key: known.get(key) for key in ("name", "operating_point", "provenance", "licence")}
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
            typer.echo(f"{name}: no conditioning gain, its DiT was trained before its AudioAE or CLAP changed", err=True)
        elif gain_clips >= 2:
            part = clips[:gain_clips]
            typer.echo(f"{name}: conditioning gain on {len(part)} clips", err=True)
            model = load_model(folder, only=_gain_networks(known, complete))
            audio, captions = [c.audio for c in part], [c.caption for c in part]
            facts[name] |= measure_gain(model, audio, captions, codebooks=wanted, seed=seed)
    for name, autoencoder in autoencoders.values():
        label = "AudioAE bound" if len(autoencoders) == 1 else f"{name}: AudioAE bound"
        systems.append(bound_system(autoencoder, name, label))
    return _bounds_first(systems), facts


def _gain_networks(facts: dict, complete: bool) -> list[str]:
    present = [name.removesuffix(".safetensors") for name in facts["fingerprints"]]
    outdated = facts.get("outdated") or ()
    return [name for name in present if name not in outdated and not (complete and name == "clap")]


def _bounds_first(systems: list[System]) -> list[System]:
    """The AudioAE bounds right after the linear codec, where the page and the table expect them."""
    order = {"source": 0, "linear": 1, "audio_ae": 2}
    return sorted(systems, key=lambda system: order.get(system.kind, 3))


def _clap_space(clap: str | None, models: Sequence[str]) -> Any:
    """Space of the CLAP of `clap`, or of the first model that has one; None if there is none and none was asked for."""
    from spresso_jax.checkpoints.weights import load_facts, load_model

    named = clap or next((m for m in models if "clap.safetensors" in load_facts(m)["fingerprints"]), None)
    if named is None:
        return None
    from spresso_jax.evaluate.denoiser import clap_embedding
    from spresso_jax.evaluate.protocol import Space

    model = load_model(named, only=["clap"])
    if clap is None and model.networks["clap"].class_name == "TextConditioner":
        return None
    title = model.facts.get("name") or Path(named).name
    return Space("clap", f"CLAP of {title}", clap_embedding(model), similarity=True)


def _holds_decoded(scores: Path) -> bool:
    """Whether a scores.json is there that names more than the sources."""
    import json

    return scores.is_file() and len(json.loads(scores.read_text(encoding="utf-8")).get("systems", [])) > 1


def _short_names(folders: Sequence[Path]) -> list[str]:
    """Last parts of the paths, lengthened where two are equal (RUN/model is named after RUN)."""

    def name(folder: Path, parts: int) -> str:
        kept = [p for p in folder.resolve().parts if p not in ("/", "model")]
        return "-".join(kept[-parts:]) or "model"

    for parts in range(1, 8):
        names = [name(folder, parts) for folder in folders]
        if len(set(names)) == len(names):
            return names
    raise ValueError(f"the same model folder was given twice: {', '.join(map(str, folders))}")


def _numbers(text: str) -> list[int]:
    try:
        numbers = sorted({int(part) for part in text.replace(" ", ",").split(",") if part})
    except ValueError as error:
        raise ValueError(f"--codebooks {text!r}: give whole numbers separated by commas, e.g. 4,12") from error
    if not numbers or numbers[0] < 1:
        raise ValueError(f"--codebooks {text!r}: give at least one positive number, e.g. 4,12")
    return numbers


def _progress() -> Callable[[str, int, int], None]:
    """One plain line for every tenth of a column, on stderr."""
    shown: dict[str, int] = {}

    def show(what: str, done: int, total: int) -> None:
        tenth = done * 10 // total
        if shown.get(what) != tenth:
            shown[what] = tenth
            typer.echo(f"{what}: {done}/{total}", err=True)

    return show
