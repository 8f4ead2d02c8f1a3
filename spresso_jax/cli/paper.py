"""`spresso paper`: the tables and figures of the paper for one's own models, beside what it printed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spresso_jax.cli.errors import user_errors

if TYPE_CHECKING:
    from spresso_jax.cli.paper_runs import Given
    from spresso_jax.evaluate.paper.measurements import Measurements

paper_app = typer.Typer(
    help="The paper's tables and figures for your models, beside what it printed: table1, table2, figure4, diversity.",
    no_args_is_help=True,
)

_Runs = Annotated[
    list[str] | None, typer.Argument(help="Runs, model folders, sweeps, and folders of `spresso peers run`.")
]
_Out = Annotated[
    Path, typer.Option(help="Folder for the page, its pictures and the evaluations; resumed if it exists.")
]
_Data = Annotated[list[str] | None, typer.Option(help="Test set, as for `spresso evaluate`; repeat for several.")]
_Evaluations = Annotated[
    list[Path] | None,
    typer.Option("--evaluation", help="Folder that `spresso evaluate` filled, instead of runs; repeat."),
]
_Set = Annotated[str | None, typer.Option("--set", help="The test set whose figures are used; default their union.")]
_Where = Annotated[list[str] | None, typer.Option(help="AXIS=VALUE: only these points of a sweep; repeat.")]
_Clips = Annotated[int, typer.Option(min=2, help="Clips a set, drawn with --seed.")]
_Seed = Annotated[int, typer.Option(min=0, help="Of the choice of clips, of decoding and of all draws.")]
_Steps = Annotated[int, typer.Option(min=2, help="Steps of the sampler.")]
_Sampler = Annotated[str, typer.Option(help="heun, euler or dpm_solver_pp_2m.")]
_Embeddings = Annotated[list[str] | None, typer.Option(help="NAME or NAME=SOURCE, as for `spresso evaluate`; repeat.")]
_More = Annotated[str, typer.Option("--evaluate-options", help="More for `spresso evaluate`, as one text in quotes.")]
_Columns = Annotated[
    list[str] | None,
    typer.Option(help="COLUMN=EMBEDDING of ours beside a column of the paper, such as fad_vggish=yamnet; repeat."),
]
_Codebooks = Annotated[
    list[str] | None, typer.Option(help="Numbers of codebooks, e.g. 4,12; once for all models, or once a model.")
]


@paper_app.command()
def table1(
    out: _Out,
    runs: _Runs = None,
    data: _Data = None,
    evaluation: _Evaluations = None,
    set_: _Set = None,
    where: _Where = None,
    column: _Columns = None,
    embedding: _Embeddings = None,
    clips: _Clips = 500,
    seed: _Seed = 0,
    steps: _Steps = 64,
    sampler: _Sampler = "heun",
    evaluate_options: _More = "",
) -> None:
    """Continuous embeddings at t = 4, 9, 20 and 100, the AudioAE, Stable Audio Open and Music2Latent."""
    with user_errors():
        from spresso_jax.cli import paper_runs

        given = paper_runs.gather(runs or [], where or [])
        paper_runs.refuse_duplicates(given.models, None, by_step_3=False)
        decoding = paper_runs.Decoding(
            tuple(data or ()), clips, seed, steps, sampler, tuple(embedding or ()), evaluate_options
        )
        folders = paper_runs.evaluate_given(given, None, decoding, out)
        _table("table1", given, [*folders, *(evaluation or [])], set_, column or [], out)


@paper_app.command()
def table2(
    out: _Out,
    runs: _Runs = None,
    data: _Data = None,
    evaluation: _Evaluations = None,
    set_: _Set = None,
    where: _Where = None,
    column: _Columns = None,
    codebooks: _Codebooks = None,
    embedding: _Embeddings = None,
    clips: _Clips = 500,
    seed: _Seed = 0,
    steps: _Steps = 64,
    sampler: _Sampler = "heun",
    evaluate_options: _More = "",
) -> None:
    """Codes at 1.32, 0.3 and 0.096 kbps, DAC and SemantiCodec."""
    with user_errors():
        from spresso_jax.bitrate import PAPER_OPERATING_POINTS
        from spresso_jax.cli import paper_runs

        wanted: dict[int, list[int]] = {}
        for point in PAPER_OPERATING_POINTS:
            wanted.setdefault(point.downsample, []).append(point.codebooks)
        given, numbers = paper_runs.with_codebooks(paper_runs.gather(runs or [], where or []), wanted, codebooks or [])
        paper_runs.refuse_duplicates(given.models, numbers, by_step_3=False)
        decoding = paper_runs.Decoding(
            tuple(data or ()), clips, seed, steps, sampler, tuple(embedding or ()), evaluate_options
        )
        folders = paper_runs.evaluate_given(given, numbers, decoding, out)
        _table("table2", given, [*folders, *(evaluation or [])], set_, column or [], out)


@paper_app.command()
def figure4(
    out: _Out,
    runs: _Runs = None,
    data: _Data = None,
    evaluation: _Evaluations = None,
    set_: _Set = None,
    where: _Where = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="Metric to draw, such as KAD or FAD[aisfx]; repeat. Default all of five.")
    ] = None,
    codebooks: _Codebooks = None,
    embedding: _Embeddings = None,
    clips: _Clips = 500,
    seed: _Seed = 0,
    steps: _Steps = 64,
    sampler: _Sampler = "heun",
    evaluate_options: _More = "",
) -> None:
    """Every metric over bitrate, a line for each frame rate, dashed before step 3 and full after it."""
    with user_errors():
        from spresso_jax.cli import paper_runs
        from spresso_jax.configuration import rates
        from spresso_jax.evaluate.paper.figure4 import write_figure4

        wanted = {rate["downsample"]: rate["decode_codebooks"] for rate in rates.RATES.values()}
        given, numbers = paper_runs.with_codebooks(paper_runs.gather(runs or [], where or []), wanted, codebooks or [])
        paper_runs.refuse_duplicates(given.models, numbers, by_step_3=True)
        decoding = paper_runs.Decoding(
            tuple(data or ()), clips, seed, steps, sampler, tuple(embedding or ()), evaluate_options
        )
        folders = paper_runs.evaluate_given(given, numbers, decoding, out)
        measured = _measurements(given, [*folders, *(evaluation or [])], set_)
        typer.echo(write_figure4(measured, out, metrics=metric or (), absent=given.absent))
        typer.echo(f"wrote {out / 'figure4.png'}, figure4.md, .tex and .json")


@paper_app.command()
def diversity(
    runs: Annotated[list[str], typer.Argument(help="Runs, model folders or sweeps.")],
    data: Annotated[Path, typer.Option(help="Folder of sounds, or of shards (their val split).")],
    out: _Out,
    where: _Where = None,
    draws: Annotated[int, typer.Option(min=2, help="Decodes of every clip, each with its own seed.")] = 4,
    embedding: _Embeddings = None,
    codebooks: _Codebooks = None,
    partners: Annotated[int, typer.Option(min=1, help="Other clips that each clip is compared with.")] = 4,
    clips: _Clips = 50,
    seed: _Seed = 0,
    steps: _Steps = 64,
    sampler: _Sampler = "heun",
) -> None:
    """How far several decodes of one clip lie apart, by frame rate, beside different clips and the source."""
    with user_errors():
        from spresso_jax.cli import paper_runs
        from spresso_jax.cli.evaluate import load_clips, progress_lines
        from spresso_jax.evaluate.features.registry import load_embedding
        from spresso_jax.evaluate.paper import diversity as measuring
        from spresso_jax.evaluate.paper.diversity_page import write_diversity

        given = paper_runs.gather(runs, where or [])
        models = [model for model in given.models if model.downsample is not None]
        if not models:
            raise ValueError(
                "none of the models turns a sound into embeddings and back: give models of stage 4 or later"
            )
        numbers = paper_runs.asked_codebooks(codebooks or [], models)
        measures = [measuring.mel_measure()]
        for extractor in map(load_embedding, embedding or []):
            measures.append(
                measuring.embedding_measure(
                    extractor.name, lambda sounds, e=extractor: e.embed(sounds).clip_means(), extractor.to_json()
                )
            )
        chosen = load_clips(data, clips, seed)
        points = paper_runs.drawn_points(models, numbers, draws, seed=seed, steps=steps, sampler=sampler)
        found = measuring.measure_diversity(
            chosen, points, measures, out, partners=partners, seed=seed, progress=progress_lines()
        )
        options = {
            "data": str(data),
            "draws": draws,
            "partners": partners,
            "seed": seed,
            "steps": steps,
            "sampler": sampler,
        }
        typer.echo(write_diversity(chosen, found, measures, out, options))
        for absent in given.absent:
            typer.echo(f"asked for and missing: {absent.name}: {absent.why}")
        typer.echo(f"wrote {out / 'diversity.md'}, .tex, .json and .png")


def _table(name: str, given: Given, folders: list[Path], set_: str | None, columns: list[str], out: Path) -> None:
    """Reads the evaluations, compares, writes and prints."""
    from spresso_jax.evaluate.paper.comparison import compare
    from spresso_jax.evaluate.paper.comparison_page import write_comparison
    from spresso_jax.evaluate.paper.published import published

    embeddings = {}
    for text in columns:
        column, sign, embedding = text.partition("=")
        if not sign or not embedding:
            raise ValueError(f"--column {text!r}: write COLUMN=EMBEDDING, for example fad_vggish=yamnet")
        embeddings[column] = embedding
    paper = published()
    comparison = compare(paper, name, _measurements(given, folders, set_), absent=given.absent, embeddings=embeddings)
    typer.echo(write_comparison(comparison, paper, out))
    typer.echo(f"wrote {out / name}.md, .tex, .json and .png")


def _measurements(given: Given, folders: list[Path], set_: str | None) -> Measurements:
    from spresso_jax.evaluate.paper.measurements import read_measurements

    if not folders and given.absent:
        told = "; ".join(f"{absent.name}: {absent.why}" for absent in given.absent)
        raise ValueError(f"nothing can be evaluated yet: {told}")
    return read_measurements(folders, set_)
