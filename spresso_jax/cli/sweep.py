"""`sweep`: a grid of trainings of one stage, here or as a SLURM array, and the table of what they gave."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from spresso_jax.cli.errors import user_errors


class _RunUnlessNamed(typer.core.TyperGroup):
    """`spresso sweep encoder_depth ...` is `spresso sweep run encoder_depth ...`: the first word decides."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)


sweep_app = typer.Typer(
    cls=_RunUnlessNamed,
    help="Train a grid of settings: `sweep SWEEP[:PRESET] ...`, short for `sweep run`; then `sweep collect FOLDER`.",
    subcommand_metavar="SWEEP[:PRESET] [ARGS]... | COMMAND [ARGS]...",
    no_args_is_help=True,
)

_Folder = Annotated[Path, typer.Argument(help="The --out of a sweep.")]


@sweep_app.command()
def run(
    sweep: Annotated[str, typer.Argument(help="Sweep file and preset, such as encoder_depth:small; or a .py path.")],
    data: Annotated[list[Path], typer.Option(help="Folder of shards; several are mixed by data.weights.")],
    out: Annotated[Path, typer.Option(help="Folder of the sweep: a run folder for every point, and the shared caches.")],
    upstream: Annotated[str | None, typer.Option(help="Model folder of the stage before: RUN/model.")] = None,
    axis: Annotated[
        list[str] | None,
        typer.Option(help="Other values for an axis: depth=2,6 or seed=0,1. May be given several times."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override for every point, such as loop.steps=1000.")
    ] = None,
    run_: Annotated[bool, typer.Option("--run/--dry-run", help="Train; or check, print the grid and stop.")] = True,
    slurm: Annotated[
        Path | None, typer.Option(help="Write a SLURM array of the missing points to this folder; train nothing here.")
    ] = None,
    slurm_options: Annotated[
        str, typer.Option(help='Of sbatch, such as "--partition=gpu --gpus=1 --time=12:00:00".')
    ] = "",
    at_once: Annotated[int, typer.Option(min=1, help="Points that the array may run at a time.")] = 4,
) -> None:
    """Prints the grid, then trains what is missing, point after point; the same line again goes on."""
    with user_errors():
        from spresso_jax.cli import sweeping

        if slurm_options and slurm is None:
            raise ValueError("--slurm-options needs --slurm FOLDER, where the array is written")
        request = sweeping.SweepRequest(sweep, tuple(data), out, upstream, tuple(axis or ()), tuple(set_ or ()))
        planned = sweeping.plan(request)
        sweeping.show(planned)
        if not run_:
            return
        if slurm is not None:
            sweeping.write_slurm(planned, slurm, slurm_options, at_once)
            return
        status = sweeping.train_missing(planned)
    if status:
        raise typer.Exit(status)


@sweep_app.command()
def prepare(folder: _Folder) -> None:
    """Makes the caches that all points of a sweep read; a SLURM array does it once before its first point."""
    with user_errors():
        from spresso_jax.cli import sweeping

        sweeping.prepare(folder)


@sweep_app.command()
def collect(
    folder: _Folder,
    figure: Annotated[
        str | None, typer.Option(help="What plot.png shows: a column of table.csv; the sweep's first metric if not given.")
    ] = None,
) -> None:
    """Writes table.md, table.csv and plot.png of the points that are done, and prints the table."""
    with user_errors():
        from spresso_jax.sweeps import collect as collecting

        found = collecting.collect(folder)
        picture = collecting.plot_png(found, figure)
        table = collecting.markdown(found)
        (folder / "table.md").write_text(table, encoding="utf-8")
        (folder / "table.csv").write_text(collecting.csv_text(found), encoding="utf-8")
        (folder / "plot.png").write_bytes(picture)
        typer.echo(table)
        typer.echo(f"written: {folder / 'table.md'}, table.csv and plot.png")
