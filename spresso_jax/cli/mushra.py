"""`spresso mushra`: a listening test for webMUSHRA from folders of sounds, and the statistics of its results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spresso_jax.cli.errors import user_errors

mushra_app = typer.Typer(
    help="Listening tests (MUSHRA): `export` pages for webMUSHRA, `check` them, `score` what listeners rated.",
    no_args_is_help=True,
)


@mushra_app.command()
def export(
    reference: Annotated[Path, typer.Option(help="Folder of the reference sounds.")],
    system: Annotated[list[str], typer.Option(help="NAME=FOLDER with sounds of the same names; once a system.")],
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    items: Annotated[int, typer.Option(min=1, help="Number of references to draw.")] = 9,
    item: Annotated[
        list[str] | None, typer.Option(help="A reference to use, without suffix; instead of a draw.")
    ] = None,
    anchor_7k: Annotated[bool, typer.Option("--anchor-7k", help="Add the 7 kHz anchor to the 3.5 kHz one.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
    title: Annotated[str, typer.Option(help="Shown to listeners; names the folder of the results.")] = "Listening test",
    loudness: Annotated[float, typer.Option(help="Of the references, LUFS.")] = -23.0,
) -> None:
    """Writes YAML, sounds and a README; prints what a listener will hear."""
    with user_errors():
        from spresso_jax.evaluate.mushra.listening_test import export_test

        plan = export_test(
            reference,
            _systems(system),
            out,
            items=items,
            chosen=tuple(item or ()),
            anchor70=anchor_7k,
            seed=seed,
            title=title,
            loudness=loudness,
            progress=lambda line: typer.echo(f"note: {line}", err=True),
        )
        for line in plan.lines():
            typer.echo(line)
        typer.echo(f"wrote {plan.config}; how to host it: {out / 'README.md'}")


@mushra_app.command()
def check(folder: Annotated[Path, typer.Argument(help="Folder that `spresso mushra export` wrote.")]) -> None:
    """Checks a test as webMUSHRA would, and prints what a listener will hear."""
    with user_errors():
        from spresso_jax.evaluate.mushra.listening_test import check_test

        for line in check_test(folder).lines():
            typer.echo(line)


@mushra_app.command()
def score(
    results: Annotated[list[Path], typer.Argument(help="webMUSHRA's results/TEST/mushra.csv; several of one test.")],
    out: Annotated[Path, typer.Option(help="Folder for tables and figures.")],
    training: Annotated[
        list[str] | None, typer.Option(help="Pages that are not items of the test; default: training.")
    ] = None,
    leave_out_incomplete: Annotated[
        bool, typer.Option("--leave-out-incomplete", help="Leave out listeners that lack ratings, and count them.")
    ] = False,
) -> None:
    """Screens listeners as BS.1534-3 says and writes means with intervals, tests, a mixed model and figures."""
    with user_errors():
        from spresso_jax.evaluate.mushra.report import markdown, write_scores
        from spresso_jax.evaluate.mushra.results import TRAINING, read_results

        ratings = read_results(
            results, training=tuple(training or (TRAINING,)), leave_out_incomplete=leave_out_incomplete
        )
        typer.echo(markdown(write_scores(ratings, out)))
        typer.echo(f"wrote {out}/mushra.json, mushra.md, conditions.csv, boxes and items as png and svg")


def _systems(words: list[str]) -> dict[str, Path]:
    systems: dict[str, Path] = {}
    for word in words:
        name, separator, folder = word.partition("=")
        if not separator or not folder:
            raise ValueError(f"--system {word!r}: write NAME=FOLDER")
        if name in systems:
            raise ValueError(f"--system {name}: given twice")
        systems[name] = Path(folder)
    return systems
