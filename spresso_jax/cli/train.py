"""`train`: one stage in one run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spresso_jax.cli.errors import user_errors


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""
    app.command()(train)


def train(
    stage: Annotated[
        str,
        typer.Argument(
            help="audio_ae, clap, text_to_audio, diffusion_ae, quantizer or decoder_finetune, in that order."
        ),
    ],
    run: Annotated[Path, typer.Option(help="Run folder: config, metrics, previews, checkpoints, model.")],
    data: Annotated[
        list[Path],
        typer.Option(help="Folder of shards; several are mixed by data.weights. For quantizer also .npy files, [N, D]."),
    ],
    config: Annotated[
        str | None,
        typer.Option(help="Experiment and preset, such as diffusion_ae:small-1hz; a .py or config.json path."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override, such as loop.steps=1000. May be given several times.")
    ] = None,
    upstream: Annotated[str | None, typer.Option(help="Model folder of the stage before: RUN/model.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check config, data and upstream model; train nothing.")
    ] = False,
) -> None:
    """Trains one stage; RUN/model is what the next stage takes as --upstream."""
    with user_errors():
        from spresso_jax.cli.training import RunRequest
        from spresso_jax.cli.training import train as run_training
        from spresso_jax.configuration import load_config
        from spresso_jax.stages.registry import entry

        entry(stage)
        request = RunRequest(
            stage, load_config(config or stage, set_ or ()), run, tuple(data), upstream=upstream, resume=resume
        )
        if dry_run:
            from spresso_jax.cli.training import describe

            print(describe(request))
            return
        _start_cluster()
        if run_training(request) is None:
            raise typer.Exit(130)


def _start_cluster() -> None:
    from spresso_jax.train import cluster

    cluster.start()
