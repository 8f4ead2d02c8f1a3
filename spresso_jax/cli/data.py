"""`data`: sound files or procedural sounds -> shards, sounds -> embeddings, and a look at what shards hold."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from spresso_jax.cli.errors import user_errors

data_app = typer.Typer(help="Prepare, check and synthesise training data.", no_args_is_help=True)

_Workers = Annotated[int, typer.Option(min=1, help="Processes that decode and resample.")]
_Out = Annotated[Path, typer.Option(help="Folder of the result; made if needed.")]


@data_app.command()
def prepare(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of sound files; each is a source.")],
    out: _Out,
    captions: Annotated[
        list[Path] | None,
        typer.Option(help="Table (CSV, TSV, JSON) with a path and a caption column; may also name split, group, "
                     "licence and category. May be given several times."),
    ] = None,  # fmt: skip
    licence: Annotated[
        list[str] | None, typer.Option(help="Keep only files of this licence; may be given several times.")
    ] = None,
    val_fraction: Annotated[float, typer.Option(help="Share that goes to 'val' where no split is given.")] = 0.05,
    group_by: Annotated[
        str, typer.Option(help="Files kept in one split: 'file', 'name' (hit1, hit2) or 'folder'.")
    ] = "file",
    min_bandwidth: Annotated[float, typer.Option(help="Leave out files with nothing above this frequency, Hz.")] = 0.0,
    codec: Annotated[str, typer.Option(help="'raw' (fast) or 'flac' (0.4 of the size).")] = "raw",
    workers: _Workers = 1,
) -> None:
    """Turns folders of sound files into shards of 48 kHz clips; running it again makes only what changed."""
    with user_errors():
        from data_pipeline import ingest

        settings = ingest.Settings(codec=codec, min_bandwidth=min_bandwidth)
        with _progress("preparing") as progress:
            report = ingest.prepare(
                folders, out, tables=captions or (), licences=licence or None, val_fraction=val_fraction,
                group_by=group_by, settings=settings, workers=workers, progress=progress,
            )  # fmt: skip
    _print_report(report, out)


@data_app.command()
def synth(
    out: _Out,
    clips: Annotated[int, typer.Option(min=1, help="How many clips.")] = 1000,
    seed: Annotated[int, typer.Option(help="Clip i is a pure function of i and the seed.")] = 0,
    val_fraction: Annotated[float, typer.Option(help="Share that goes to 'val'.")] = 0.1,
    files: Annotated[bool, typer.Option("--files", help="Write FLAC files and manifest.csv, not shards.")] = False,
    workers: _Workers = 1,
) -> None:
    """Makes procedural sound effects with captions, as shards (or as files), without any download."""
    with user_errors():
        from data_pipeline import ingest

        with _progress("synthesising") as progress:
            if files:
                ingest.write_synthetic_files(out, clips, seed, val_fraction=val_fraction, progress=progress)
                report = None
            else:
                report = ingest.write_synthetic(
                    out, clips, seed, val_fraction=val_fraction, workers=workers, progress=progress
                )
    if report:
        _print_report(report, out)
    else:
        typer.echo(f"{clips} clips and manifest.csv in {out}")


@data_app.command()
def check(
    shards: Annotated[Path, typer.Argument(help="A folder that `data prepare` or `data synth` made.")],
    records: Annotated[int, typer.Option(min=1, help="Records of each split to read in full.")] = 500,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Reads shards and says what is in them: counts, durations, bandwidth, levels, captions."""
    with user_errors():
        from data_pipeline import inspection

        with _progress("reading", quiet=as_json) as progress:
            facts = inspection.inspect(shards, records, progress)
    if as_json:
        import json

        typer.echo(json.dumps(facts, ensure_ascii=False))
        return
    _print_inspection(facts, shards)


@data_app.command()
def embeddings(
    model: Annotated[Path, typer.Argument(metavar="RUN|MODEL", help="A run, or a model folder, with a latent_encoder.")],
    data: Annotated[list[Path], typer.Option(help="Folder of shards of sounds, or of cached latents; may be repeated.")],
    out: _Out,
    crops: Annotated[int, typer.Option(min=1, help="Windows of five seconds a clip, the first at its start.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the starts of the other windows.")] = 0,
) -> None:
    """Writes the embeddings z of training and validation sounds as shards of vectors, for `spresso train quantizer`.

    The shards are plain .npy files of standardised rows; meta.json holds their mean and std. What is complete is kept when the
    command is given again.
    """
    with user_errors():
        from spresso_jax.cli.embedding_data import dump_embeddings

        model = model / "model" if (model / "model").is_dir() else model
        splits = dump_embeddings(model, tuple(data), out, crops, seed)
    for split, facts in splits.items():
        typer.echo(f"{split}: {facts['rows']} vectors of {facts['clips']} clips in {facts['shards']} shards")
    typer.echo(f"train on them with: spresso train quantizer --data {out} --upstream {model} --run RUN")


def _print_report(report: dict, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    title = f"{report['accepted']} of {report['files']} files -> {out}"
    table = Table("split", "files", "records", "hours", title=title)
    for split, facts in report["splits"].items():
        table.add_row(split, str(facts["files"]), str(facts["records"]), f"{facts['hours']:.3f}")
    console.print(table)
    for title, key in (("left out", "left_out"), ("flags", "flags"), ("captions from", "captions_from")):
        if report[key]:
            console.print(f"{title}: " + ", ".join(f"{count} {name}" for name, count in report[key].items()))
    for item in [item for item in report["reasons"] if item["kind"] not in ("licence", "duplicate")][:10]:
        console.print(f"  {item['uri']}: {item['error']}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"every reason: {out / 'report.json'}", markup=False, highlight=False, soft_wrap=True)
    for split in ("train", "val"):
        if split not in report["splits"]:
            console.print(f"note: no clip is in split '{split}'; --val-fraction or a split column changes that")


def _print_inspection(facts: dict, shards: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    columns = ("split", "records", "shards", "hours", "seconds 5/50/95%", "over 16 kHz", "captions")
    table = Table(*columns, title=str(shards))
    for split, part in facts["splits"].items():
        table.add_row(
            split, str(part["records"]), str(part["shards"]), f"{part['hours']:.3f}",
            " / ".join(f"{value:.2f}" for value in part["seconds"]), f"{part['full_band']:.0%}",
            f"{part['captioned']:.0%}, {part['words']:.1f} words",
        )  # fmt: skip
    console.print(table)
    console.print(f"{facts['read']} records read without error; fingerprint {facts['fingerprint'][:16]}")
    for split, part in facts["splits"].items():
        for name, caption in part["examples"]:
            console.print(f"  {split} {name}: {caption}", markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def _progress(title: str, quiet: bool = False) -> Iterator:
    """A bar on standard error; yields a function of (done, total)."""
    if quiet:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
