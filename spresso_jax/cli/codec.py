"""`encode`, `decode` and `info`: sounds to `.spresso` files and back, and what a file, a model or a run is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from spresso_jax.cli.errors import user_errors

SUFFIX = ".spresso"
EMBEDDING_SUFFIX = ".npz"
WRITABLE_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif")

_Model = Annotated[str, typer.Option(help="A model folder, or the name of a model that comes with the package.")]
_Force = Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")]


def register(app: typer.Typer) -> None:
    """Adds the three commands to the program."""
    app.command()(encode)
    app.command()(decode)
    app.command()(info)


def encode(
    source: Annotated[Path, typer.Argument(metavar="FILE|DIR", help="A sound file, or a folder of them.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File, or folder; by default beside the sound.")
    ] = None,
    model: _Model = "spresso-nano",
    codebooks: Annotated[int | None, typer.Option(min=1, help="Codebooks to send; fewer cost fewer bits.")] = None,
    continuous: Annotated[
        bool, typer.Option("--continuous", help="Write continuous embeddings (.npz) instead of codes.")
    ] = False,
    mid_side: Annotated[bool, typer.Option("--mid-side", help="Code stereo as mid and side.")] = False,
    force: _Force = False,
) -> None:
    """Turns sounds into .spresso files; a folder keeps its tree."""
    from data_pipeline.audio_files import AUDIO_SUFFIXES

    with user_errors():
        if continuous and codebooks is not None:
            raise ValueError("--continuous sends no codes: leave --codebooks out")
        suffix = EMBEDDING_SUFFIX if continuous else SUFFIX
        jobs = _jobs(source, out, AUDIO_SUFFIXES, suffix)
        _check_targets([target for _, target in jobs], force)
        codec = _load(model)

    def work(path: Path, target: Path) -> str:
        from spresso_jax.codec.embedding_file import EmbeddedAudio

        audio, facts = _read_sound(path)
        stereo = mid_side and audio.shape[1] > 1
        if continuous:
            length = _original_length(facts, len(audio))
            embedded = EmbeddedAudio(codec.embed(audio, 48_000, stereo), *length, stereo, codec.model_id)
            embedded.save(target)
            return f"{facts.seconds:.2f} s, embeddings {embedded.z.shape}"
        encoded = _at_original_rate(codec.encode(audio, 48_000, codebooks, stereo), facts)
        encoded.save(target)
        rates = encoded.bitrates()
        return (
            f"{facts.seconds:.2f} s, {encoded.header.file_bytes} bytes,"
            f" {rates['payload']:.3f} kbps payload, {rates['file']:.3f} kbps file"
        )

    _run(jobs, work)


def decode(
    source: Annotated[
        Path, typer.Argument(metavar="FILE|DIR", help="A .spresso file (or .npz of embeddings), or a folder of them.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Sound file, whose suffix chooses the format, or folder.")
    ] = None,
    model: _Model = "spresso-nano",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Other seeds give other details.")] = 0,
    steps: Annotated[int, typer.Option(min=2, help="Steps of the sampler; fewer are faster and rougher.")] = 64,
    variations: Annotated[int, typer.Option(min=1, help="Sounds to draw from one file.")] = 1,
    caption: Annotated[str | None, typer.Option(help="Words that guide the decoder.")] = None,
    codebooks: Annotated[int | None, typer.Option(min=1, help="Use only the first of the codebooks sent.")] = None,
    sampler: Annotated[str, typer.Option(help="heun, euler or dpm_solver_pp_2m.")] = "heun",
    force: _Force = False,
) -> None:
    """Turns .spresso files into sounds of the original rate, channels and length."""
    with user_errors():
        jobs = _jobs(source, out, (SUFFIX, EMBEDDING_SUFFIX), ".wav")
        for _, target in jobs:
            if target.suffix.lower() not in WRITABLE_SUFFIXES:
                known = ", ".join(WRITABLE_SUFFIXES)
                raise ValueError(f"{target}: cannot write the suffix {target.suffix!r}: use {known}")
        _check_targets([path for _, target in jobs for path in _variation_paths(target, variations)], force)
        codec = _load(model)

    def work(path: Path, target: Path) -> str:
        from data_pipeline.audio_files import write_audio
        from spresso_jax.codec.bitstream import EncodedAudio
        from spresso_jax.codec.embedding_file import EmbeddedAudio

        settings = dict(seed=seed, steps=steps, variations=variations, caption=caption, sampler=sampler)
        if path.suffix.lower() == EMBEDDING_SUFFIX:
            if codebooks is not None:
                raise ValueError("continuous embeddings have no codebooks: leave --codebooks out")
            embedded = EmbeddedAudio.load(path)
            codec.check_model_id(embedded.model_id)
            rate, length = embedded.sample_rate, embedded.samples
            audio = codec.decode_embeddings(embedded.z, length, rate, mid_side=embedded.mid_side, **settings)
        else:
            encoded = EncodedAudio.load(path)
            rate, length = encoded.header.sample_rate, encoded.header.samples
            audio = codec.decode(encoded, codebooks=codebooks, **settings)
        sounds = [audio] if variations == 1 else list(audio)
        for sound, file in zip(sounds, _variation_paths(target, variations), strict=True):
            write_audio(file, sound, rate)
        drawn = f", {variations} variations" if variations > 1 else ""
        return f"{length / rate:.2f} s at {rate} Hz, seed {seed}{drawn}"

    _run(jobs, work)


def info(
    path: Annotated[str, typer.Argument(metavar="FILE|MODEL|RUN", help="A .spresso file, a model or a run folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Shows what a .spresso file, a model or a training run is; loads no weights."""
    with user_errors():
        from spresso_jax.codec.description import describe

        title, rows = describe(path)
    if as_json:
        import json

        typer.echo(json.dumps(rows, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), show_header=False, title_justify="left")
    for name, value in rows.items():
        table.add_row(name, Text(_shown(value)))
    Console().print(table)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(part)}" for name, part in value.items())
    if isinstance(value, list):
        return "\n".join(_shown(part) for part in value)
    return str(value)


def _load(model: str):
    """The codec; the models and JAX are imported here, after all cheap checks."""
    from spresso_jax.codec.codec import Codec

    return Codec.load(model)


def _read_sound(path: Path):
    """All channels at 48 kHz, and what the file was; silent and too short files are refused, clipping is told."""
    from data_pipeline.audio_files import read_clip

    audio, facts, findings = read_clip(path, channels="keep")
    for flag in findings.flags:
        typer.echo(f"note: {path}: {flag}", err=True)
    return audio, facts


def _original_length(facts, samples: int) -> tuple[int, int]:
    """(samples, rate) to which decoding returns: the file's own, or 48 kHz if its rate is not a common one."""
    from spresso_jax.codec.bitstream import SAMPLE_RATES

    return (facts.samples, facts.sample_rate) if facts.sample_rate in SAMPLE_RATES else (samples, 48_000)


def _at_original_rate(encoded, facts):
    import dataclasses

    samples, rate = _original_length(facts, encoded.header.samples)
    header = dataclasses.replace(encoded.header, samples=samples, sample_rate=rate)
    return dataclasses.replace(encoded, header=header)


def _jobs(source: Path, out: Path | None, suffixes: tuple[str, ...], new_suffix: str) -> list[tuple[Path, Path]]:
    """Pairs of input and output; a folder's tree is kept.

    Raises:
      ValueError: if there is nothing to do, or two inputs would be written to one file.
    """
    if source.is_dir():
        root = out or source
        if root.exists() and not root.is_dir():
            raise ValueError(f"{root} is a file, but {source} is a folder: give a folder to --out")
        found = (p for p in sorted(source.rglob("*")) if p.suffix.lower() in suffixes and p.is_file())
        inputs = [path for path in found if not path.name.startswith(".")]
        if not inputs:
            raise ValueError(f"{source} holds no file with a suffix of {', '.join(suffixes)}")
        jobs = [(path, (root / path.relative_to(source)).with_suffix(new_suffix)) for path in inputs]
    elif source.exists():
        if out is not None and out.is_dir():
            jobs = [(source, out / source.with_suffix(new_suffix).name)]
        else:
            jobs = [(source, out or source.with_suffix(new_suffix))]
    else:
        raise ValueError(f"{source}: no such file or folder")
    taken: dict[Path, Path] = {}
    for path, target in jobs:
        if target in taken:
            raise ValueError(f"{taken[target]} and {path} would both be written to {target}: rename one")
        taken[target] = path
        if target.resolve() == path.resolve():
            raise ValueError(f"{path} would overwrite itself: give another file to --out")
    return jobs


def _variation_paths(target: Path, variations: int) -> list[Path]:
    """door.wav -> door-1.wav, door-2.wav, ... when there are several."""
    if variations == 1:
        return [target]
    return [target.with_name(f"{target.stem}-{index}{target.suffix}") for index in range(1, variations + 1)]


def _check_targets(targets: list[Path], force: bool) -> None:
    present = [target for target in targets if target.exists()]
    if present and not force:
        more = f" (and {len(present) - 1} more)" if len(present) > 1 else ""
        raise ValueError(f"{present[0]} exists{more}: add --force to overwrite, or choose another --out")


def _named(path: Path, work: Callable[[Path, Path], str], target: Path) -> str:
    """Does one job; an error that does not begin with the file's name gets it."""
    try:
        return work(path, target)
    except (ValueError, OSError) as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error


def _run(jobs: list[tuple[Path, Path]], work: Callable[[Path, Path], str]) -> None:
    """Does all jobs; one that fails is told on standard error, and the exit code is 2 in the end."""
    failed = 0
    for path, target in jobs:
        try:
            with user_errors():
                target.parent.mkdir(parents=True, exist_ok=True)
                typer.echo(f"{path} -> {target}: {_named(path, work, target)}")
        except typer.Exit:
            failed += 1
    if failed:
        if len(jobs) > 1:
            typer.echo(f"error: {failed} of {len(jobs)} files failed, the others are done", err=True)
        raise typer.Exit(2)
