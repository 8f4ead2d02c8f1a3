"""The `spresso` program: commands by name, each in its own file; nothing heavy is imported before a command runs."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

app = typer.Typer(
    name="spresso",
    help="S-PRESSO: a 48 kHz sound-effect codec at ultra-low bitrates, and all six trainings that make it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(show: bool) -> None:
    if show:
        from spresso_jax import __version__

        print(f"spresso_jax {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """S-PRESSO: a 48 kHz sound-effect codec at ultra-low bitrates, and all six trainings that make it."""


def _register() -> None:
    from spresso_jax.cli import (
        codec,
        data,
        demo,
        ema,
        evaluate,
        export,
        generate,
        imports,
        mushra,
        paper,
        peers,
        quantizer,
        retrieval,
        sweep,
        train,
    )

    app.add_typer(data.data_app, name="data")
    app.add_typer(imports.import_app, name="import")
    app.add_typer(quantizer.quantizer_app, name="quantizer")
    app.add_typer(peers.peers_app, name="peers")
    app.add_typer(sweep.sweep_app, name="sweep")
    app.add_typer(mushra.mushra_app, name="mushra")
    app.add_typer(paper.paper_app, name="paper")
    for group in (train, ema, codec, generate, evaluate, retrieval, export, demo):
        group.register(app)


_register()


def main() -> None:
    """Entry point of the console script."""
    # Before JAX starts: no pre-allocation messages, and compiled programs kept between runs for this user alone.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _cache_folder())
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")
    app()


def _cache_folder() -> str:
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(root, "spresso_jax", f"xla-{sys.version_info.major}{sys.version_info.minor}")


if __name__ == "__main__":
    main()
