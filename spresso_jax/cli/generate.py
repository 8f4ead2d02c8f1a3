"""`generate`: sounds from a caption."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Annotated

import typer

from spresso_jax.cli.codec import WRITABLE_SUFFIXES
from spresso_jax.cli.coding_jobs import check_targets
from spresso_jax.cli.errors import user_errors

LONGEST_NAME = 60


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""
    app.command()(generate)


def generate(
    caption: Annotated[str, typer.Argument(help="What is heard; leave it out only with --unconditional.")] = "",
    seconds: Annotated[float, typer.Option(help="Length of each sound, up to 600.")] = 5.0,
    count: Annotated[int, typer.Option(min=1, help="Sounds to draw.")] = 1,
    model: Annotated[
        str, typer.Option(help="A text-to-audio or whole model folder, or the name of a model of the package.")
    ] = "spresso-nano",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Sound file, or folder for files named after the caption; by default here."),
    ] = None,
    unconditional: Annotated[
        bool, typer.Option("--unconditional", help="No caption: sounds of any kind. An empty caption is refused without it.")
    ] = False,
    guidance: Annotated[
        float, typer.Option(min=0.0, help="1 is none; above 1 follows the caption further, at twice the work.")
    ] = 1.0,
    guidance_interval: Annotated[
        str | None, typer.Option(metavar="LOW,HIGH", help="Noise levels within which to guide; all by default.")
    ] = None,
    weaker: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Autoguidance: guide away from this smaller or less trained model."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Other seeds give other sounds.")] = 0,
    steps: Annotated[int, typer.Option(min=2, help="Steps of the sampler; fewer are faster and rougher.")] = 64,
    sampler: Annotated[str, typer.Option(help="heun, euler or dpm_solver_pp_2m.")] = "heun",
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
) -> None:
    """Draws sounds that a caption describes, mono at 48 kHz; the same caption, model and seed give the same sounds."""
    with user_errors():
        if unconditional and caption.strip():
            raise ValueError("--unconditional takes no caption: leave one of them out")
        if not unconditional and not caption.strip():
            raise ValueError("the caption is empty: say what is heard, or add --unconditional for sounds of any kind")
        told = None if unconditional else caption
        interval = _interval(guidance_interval)
        targets = target_files(caption, count, out)
        check_targets(targets, force)

        from data_pipeline.audio_files import write_audio
        from spresso_jax.codec.generator import Generator
        from spresso_jax.shapes import SAMPLE_RATE

        generator = Generator.load(model, weaker)
        sounds = generator.generate(
            told, seconds, count, seed=seed, steps=steps, sampler=sampler, guidance=guidance, interval=interval
        )
        for sound, target in zip(sounds, targets, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            write_audio(target, sound, SAMPLE_RATE)
            typer.echo(f"{target}: {len(sound) / SAMPLE_RATE:.2f} s, seed {seed}")


def target_files(caption: str, count: int, out: Path | None) -> list[Path]:
    """Files to write: `out` itself, numbered if there are several, or files of a folder named after the caption.

    Raises:
      ValueError: if `out` has a suffix that cannot be written.
    """
    if out is None or out.is_dir() or not out.suffix:
        name = f"{slug(caption)}.wav"
        out = (out or Path()) / name
    if out.suffix.lower() not in WRITABLE_SUFFIXES:
        raise ValueError(f"{out}: cannot write the suffix {out.suffix!r}: use {', '.join(WRITABLE_SUFFIXES)}")
    if count == 1:
        return [out]
    return [out.with_name(f"{out.stem}-{index}{out.suffix}") for index in range(1, count + 1)]


def slug(caption: str) -> str:
    """A caption as a file name: "Glass, breaking!" -> "glass-breaking"; other scripts keep their letters."""
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", caption).lower())
    name = "-".join(words).encode("utf-8", "ignore")[:LONGEST_NAME].decode("utf-8", "ignore").strip("-_")
    return name or "sound"


def _interval(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"--guidance-interval must be two noise levels such as 0.3,5, got {text!r}") from error
    return low, high
