"""`ema`: a model under an average of another length, from the snapshots of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spresso_jax.cli.errors import user_errors


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""
    app.command("ema")(ema)


def ema(
    run: Annotated[Path, typer.Argument(help="Run folder of a diffusion stage, with snapshots.")],
    length: Annotated[float, typer.Option(help="Relative length of the average: above 0, below 0.2886 (uniform).")],
    step: Annotated[int | None, typer.Option(help="Where the average ends (default: the newest snapshot).")] = None,
    out: Annotated[Path | None, typer.Option(help="Model folder to write (default: RUN/model-ema-LENGTH).")] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="Shards to measure embeddings on (default: those of the run).")
    ] = None,
) -> None:
    """Writes RUN/model again under another average; train the stages after it anew."""
    with user_errors():
        if not 0.0 < length < 12**-0.5:
            raise ValueError(
                f"--length {length:g}: give a length above 0 and below {12**-0.5:.4f}, the uniform average"
            )
        from spresso_jax.cli.reconstruction import reconstruct

        reconstruct(run, length, step, out, tuple(data or ()))
