"""`demo`: the whole of S-PRESSO, tiny, on procedural sounds: six trainings, a file of a few dozen bytes, a page to hear."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from spresso_jax.cli.errors import user_errors

# (stage, preset, run folder); each takes the model of the one before it.
CHAIN = (
    ("audio_ae", "audio_ae:tiny", "1-audio_ae"),
    ("clap", "clap:tiny", "2-clap"),
    ("text_to_audio", "text_to_audio:tiny", "3-text_to_audio"),
    ("diffusion_ae", "diffusion_ae:tiny-11hz", "4-diffusion_ae"),
    ("quantizer", "quantizer:tiny-11hz", "5-quantizer"),
    ("decoder_finetune", "decoder_finetune:tiny", "6-decoder_finetune"),
)


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""
    app.command()(demo)


def demo(
    out: Annotated[Path, typer.Option(help="Folder of everything the demo makes.")] = Path("demo"),
    clips: Annotated[int, typer.Option(min=40, help="Procedural sounds to train on.")] = 96,
    sounds: Annotated[int, typer.Option(min=2, help="Held-out sounds in the report.")] = 4,
    steps: Annotated[int, typer.Option(min=2, help="Steps of the sampler in the report.")] = 12,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the report in the browser.")] = True,
) -> None:
    """Trains all six stages for a minute or so and opens a report. Tiny models do not sound good; the chain is the true one."""
    with user_errors():
        began = time.monotonic()
        shards = out / "shards"
        if not (shards / "meta.json").exists():
            from data_pipeline import ingest

            _say(f"making {clips} procedural sounds with captions")
            ingest.write_synthetic(shards, clips, seed=0, val_fraction=0.2)
        model = _train_chain(out / "runs", shards)
        _show_codec(out, shards, model)
        page = _report(out, shards, model, sounds, steps)
        _say(f"done in {(time.monotonic() - began) / 60:.1f} minutes")
        typer.echo(f"report: {page}\n(tiny models of a minute's training: noise with the right outline, not yet sound)")
        if open_page and _has_screen():
            typer.launch(page.as_uri())


def _train_chain(runs: Path, shards: Path) -> Path:
    """Trains what has not been trained yet; the model folder of the last stage."""
    from spresso_jax.cli.training import RunRequest, train
    from spresso_jax.configuration import load_config

    upstream: str | None = None
    for number, (stage, preset, folder) in enumerate(CHAIN, start=1):
        run = runs / folder
        if not (run / "model" / "model.json").exists():
            _say(f"stage {number} of {len(CHAIN)}: {stage}")
            request = RunRequest(
                stage, load_config(preset), run, (shards,), upstream=upstream, resume=(run / "config.json").exists()
            )
            if train(request) is None:
                raise typer.Exit(130)
        upstream = str(run / "model")
    return Path(upstream or "")


def _show_codec(out: Path, shards: Path, model: Path) -> None:
    """One held-out sound through a file and back."""
    from data_pipeline.audio_files import write_audio
    from data_pipeline.loader import Source, ordered_clips
    from spresso_jax.codec.codec import Codec

    clip = next(iter(ordered_clips(Source(str(shards), "val"), 240_000, crop="most_active")))
    source = out / "clip.wav"
    write_audio(source, clip["audio"][: clip["valid"], 0])
    encoded = Codec.load(model).encode(clip["audio"][: clip["valid"], 0], 48_000)
    target = out / "clip.spresso"
    target.write_bytes(bytes(encoded))
    seconds = clip["valid"] / 48_000
    _say(f"{source} ({seconds:.1f} s, {source.stat().st_size:,} bytes) became {target} ({target.stat().st_size} bytes)")


def _report(out: Path, shards: Path, model: Path, sounds: int, steps: int) -> Path:
    """Evaluates a few held-out sounds and writes the page."""
    from spresso_jax.cli.evaluate import evaluate
    from spresso_jax.evaluate.report import write_report

    _say("decoding held-out sounds and measuring them")
    evaluate(
        models=[str(model)], out=out / "report", data=[str(shards)], reference=None, clips=sounds, steps=steps,
        sampler="heun", codebooks=None, clap=None, candidates=8, gain_clips=16, seed=0,
    )  # fmt: skip
    runs = [out / "runs" / folder for _, _, folder in CHAIN]
    return Path(write_report(out / "report", runs, sounds=sounds, page=None)).resolve()


def _has_screen() -> bool:
    import os
    import sys

    if os.environ.get("CI") or os.environ.get("SSH_CONNECTION"):
        return False
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _say(text: str) -> None:
    typer.echo(f"=== {text}")
