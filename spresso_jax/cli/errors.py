"""One sentence on standard error and exit code 2 for what the user can mend; tracebacks for our own mistakes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import typer


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turns ValueError, FileNotFoundError, OSError and FloatingPointError into one sentence and exit code 2.

    All of the project's own errors (audio files, bitstreams, model folders, shards, configs, checkpoints) are ValueErrors
    whose message names the file or field and the remedy. SPRESSO_DEBUG=1 shows the traceback.
    """
    import os

    try:
        yield
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("SPRESSO_DEBUG"):
            raise
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(2) from error
