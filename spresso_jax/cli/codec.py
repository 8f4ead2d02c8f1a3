"""`encode`, `decode` and `info`: sounds to `.spresso` files and back, and what a file, a model or a run is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spresso_jax.cli.coding_jobs import Coding, check_targets, pair_files
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
        bool,
        typer.Option(
            "--continuous", help="Write continuous embeddings (.npz) instead of codes; with an AudioAE alone, its latents."
        ),
    ] = False,
    mid_side: Annotated[bool, typer.Option("--mid-side", help="Code stereo as mid and side.")] = False,
    force: _Force = False,
) -> None:
    """Turns sounds into .spresso files; a folder keeps its tree."""
    from data_pipeline.audio_files import AUDIO_SUFFIXES

    with user_errors():
        if continuous and codebooks is not None:
            raise ValueError("--continuous sends no codes: leave --codebooks out")
        jobs = pair_files(source, out, AUDIO_SUFFIXES, EMBEDDING_SUFFIX if continuous else SUFFIX)
        check_targets([target for _, target in jobs], force)
        codec = _load_encoder(model, continuous)
    latents = _is_latent_codec(codec)

    def code(sounds: list[Any]) -> list[Any]:
        if latents and len(sounds) > 1:
            return codec.encode_many([audio for audio, _ in sounds], 48_000, mid_side)
        audio, _ = sounds[0]
        stereo = mid_side and audio.shape[1] > 1
        if latents:
            return [codec.encode(audio, 48_000, stereo)]
        return [codec.embed(audio, 48_000, stereo) if continuous else codec.encode(audio, 48_000, codebooks, stereo)]

    def write(sound: Any, made: Any, target: Path) -> tuple[float, str]:
        from spresso_jax.codec.embedding_file import EMBEDDING, LATENT, EmbeddedAudio

        audio, facts = sound
        if continuous:
            kind, identity = (LATENT, codec.latent_id) if latents else (EMBEDDING, codec.model_id)
            length = _original_length(facts, len(audio))
            EmbeddedAudio(made, *length, mid_side and audio.shape[1] > 1, identity, kind).save(target)
            return facts.seconds, f"{facts.seconds:.2f} s, {kind}s {made.shape}"
        encoded = _at_original_rate(made, facts)
        encoded.save(target)
        rates = encoded.bitrates()
        return facts.seconds, (
            f"{facts.seconds:.2f} s, {encoded.header.file_bytes} bytes,"
            f" {rates['payload']:.3f} kbps payload, {rates['file']:.3f} kbps file"
        )

    Coding(jobs, source.is_dir()).together(_read_sound, code, write, codec.sounds_a_call if latents else 1, _is_short)


def decode(
    source: Annotated[
        Path, typer.Argument(metavar="FILE|DIR", help="A .spresso file (or .npz of embeddings or latents), or a folder of them.")
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
    guidance: Annotated[
        float, typer.Option(min=0.0, help="Above 1: follow the caption further, at twice the work.")
    ] = 1.0,
    force: _Force = False,
) -> None:
    """Turns .spresso files, embeddings or latents into sounds of the original rate, channels and length."""
    with user_errors():
        jobs = pair_files(source, out, (SUFFIX, EMBEDDING_SUFFIX), ".wav")
        for _, target in jobs:
            if target.suffix.lower() not in WRITABLE_SUFFIXES:
                known = ", ".join(WRITABLE_SUFFIXES)
                raise ValueError(f"{target}: cannot write the suffix {target.suffix!r}: use {known}")
        check_targets([path for _, target in jobs for path in _variation_paths(target, variations)], force)
        codec = _load_decoder(model)
        if not _is_latent_codec(codec):
            codec.check_caption(caption, guidance)

    def work(path: Path, target: Path) -> tuple[float, str]:
        """Seconds of sound, and what to tell."""
        from data_pipeline.audio_files import write_audio
        from spresso_jax.codec.bitstream import EncodedAudio
        from spresso_jax.codec.embedding_file import LATENT, EmbeddedAudio

        drawn = f", seed {seed}" + (f", {variations} variations" if variations > 1 else "")
        settings = dict(
            seed=seed, steps=steps, variations=variations, caption=caption, sampler=sampler, guidance=guidance
        )
        if path.suffix.lower() == EMBEDDING_SUFFIX:
            if codebooks is not None:
                raise ValueError("continuous embeddings have no codebooks: leave --codebooks out")
            embedded = EmbeddedAudio.load(path)
            rate, length, mid_side = embedded.sample_rate, embedded.samples, embedded.mid_side
            if embedded.kind == LATENT:
                if variations > 1 or caption is not None or guidance != 1.0:
                    raise ValueError("latents decode to one sound: leave --variations, --caption and --guidance out")
                autoencoder = codec if _is_latent_codec(codec) else codec.latent_codec
                autoencoder.check_latent_id(embedded.model_id)
                audio, drawn = autoencoder.decode(embedded.z, length, rate, mid_side), ""
            else:
                if _is_latent_codec(codec):
                    _check_complete(codec)
                codec.check_model_id(embedded.model_id)
                audio = codec.decode_embeddings(embedded.z, length, rate, mid_side=mid_side, **settings)
        else:
            _check_complete(codec)
            encoded = EncodedAudio.load(path)
            rate, length = encoded.header.sample_rate, encoded.header.samples
            audio = codec.decode(encoded, codebooks=codebooks, **settings)
        sounds = [audio] if variations == 1 else list(audio)
        for sound, file in zip(sounds, _variation_paths(target, variations), strict=True):
            write_audio(file, sound, rate)
        return length / rate, f"{length / rate:.2f} s at {rate} Hz{drawn}"

    Coding(jobs, source.is_dir()).each(work)


def info(
    path: Annotated[str, typer.Argument(metavar="FILE|MODEL|RUN", help="A .spresso or .npz file, a model or a run folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Shows what a .spresso or .npz file, a model or a training run is; loads no weights."""
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


def _load_latent_codec(model: str):
    from spresso_jax.codec.latent_codec import LatentCodec

    return LatentCodec.load(model)


def _load_encoder(model: str, continuous: bool):
    """The codec, or for continuous output of a model without embeddings its AudioAE."""
    from spresso_jax.checkpoints.weights import load_facts
    from spresso_jax.codec.completeness import check_complete, embeds, missing_networks

    facts = load_facts(model)
    if continuous and missing_networks(facts) and not embeds(facts):
        return _load_latent_codec(model)
    if not (continuous and embeds(facts)):
        check_complete(facts, model)
    return _load(model)


def _load_decoder(model: str):
    """The codec, or the AudioAE of a model without embeddings, which decodes latents."""
    from spresso_jax.checkpoints.weights import load_facts
    from spresso_jax.codec.completeness import embeds

    return _load(model) if embeds(load_facts(model)) else _load_latent_codec(model)


def _is_latent_codec(codec: Any) -> bool:
    from spresso_jax.codec.latent_codec import LatentCodec

    return isinstance(codec, LatentCodec)


def _check_complete(codec: Any) -> None:
    from spresso_jax.codec.completeness import check_complete

    check_complete(codec.facts, codec.name)


def _is_short(sound: Any) -> bool:
    """Whether a sound may wait in memory for others."""
    from spresso_jax.shapes import CLIP_SAMPLES

    return len(sound[0]) <= CLIP_SAMPLES


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


def _variation_paths(target: Path, variations: int) -> list[Path]:
    """door.wav -> door-1.wav, door-2.wav, ... when there are several."""
    if variations == 1:
        return [target]
    return [target.with_name(f"{target.stem}-{index}{target.suffix}") for index in range(1, variations + 1)]
