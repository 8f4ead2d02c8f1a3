"""`spresso evaluate` and `spresso report`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spresso_jax.cli.errors import user_errors

if TYPE_CHECKING:
    from spresso_jax.evaluate.decoded import Clip, System
    from spresso_jax.evaluate.features.extractor import Extractor
    from spresso_jax.evaluate.score import EmbeddingSource
    from spresso_jax.evaluate.test_sets import ClipSet

# SHA-256 of torchvggish's release file begins with these digits, as its name says.
VGGISH_RELEASE = "10086976"


def register(app: typer.Typer) -> None:
    """Adds the commands to the program."""
    app.command("evaluate")(evaluate)
    app.command("report")(report)


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Models, runs, and folders of decoded sounds or of peers ({set} in a path: the set's name)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for decoded sounds and scores.json; resumed if it exists.")],
    reference: Annotated[
        list[str] | None, typer.Option(help="Test set: FOLDER or NAME=FOLDER of sounds or shards; repeat for several.")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="The same, where all arguments are models and nothing else may be.")
    ] = None,
    clips: Annotated[int, typer.Option(min=2, help="Clips of each set, drawn with --seed.")] = 500,
    embedding: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME or NAME=SOURCE: aisfx, yamnet, vggish=, clap=, clap-kadtk=; auto (installed ones) or none."
        ),
    ] = None,
    ceiling: Annotated[str | None, typer.Option(help="Model folder whose AudioAE is shown as the bound.")] = None,
    steps: Annotated[int, typer.Option(min=2, help="Steps of the sampler.")] = 64,
    sampler: Annotated[str, typer.Option(help="heun, euler or dpm_solver_pp_2m.")] = "heun",
    codebooks: Annotated[
        list[str] | None, typer.Option(help="Numbers of codebooks, e.g. 4,12; once for all models, or once a model.")
    ] = None,
    clap: Annotated[str | None, typer.Option(help="Model folder whose CLAP is used (default: the first).")] = None,
    candidates: Annotated[int, typer.Option(min=2, help="Sources that each decoded clip is compared with.")] = 24,
    gain_clips: Annotated[int, typer.Option(min=0, help="Clips for the conditioning gain; 0 leaves it out.")] = 64,
    gain_only: Annotated[bool, typer.Option("--gain-only", help="Measure that gain alone; decode nothing.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of clips, of decoding and of all draws.")] = 0,
    incomplete: Annotated[
        bool, typer.Option("--incomplete", help="Clips without a readable decoded file leave all systems, counted.")
    ] = False,
    max_delay: Annotated[
        int, typer.Option(min=0, help="Samples searched for a decoded folder's constant delay, for SI-SDR.")
    ] = 0,
    fad_inf: Annotated[bool, typer.Option("--fad-inf", help="FAD at infinitely many clips too, both ways.")] = False,
    bandwidth: Annotated[
        str, typer.Option(help="KAD's bandwidth from: reference, or evaluation as kadtk.")
    ] = "reference",
    draws: Annotated[
        int, typer.Option(min=0, help="Bootstrap draws of each distance of sets; FAD takes a fifth.")
    ] = 200,
    own_length: Annotated[
        bool, typer.Option("--own-length", help="Embed clips at their own lengths, not zero-padded to 5 s.")
    ] = False,
    cache: Annotated[Path | None, typer.Option(help="Folder of embedded rows; default OUT/features.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes for measures; 0 takes the processor's cores.")] = 0,
) -> None:
    """Measures systems on test sets: distances of sets and of clips, retrieval, conditioning gain, with intervals.

    Two folders of wavs are enough: `spresso evaluate decoded/ --reference originals/ --out report`.
    """
    with user_errors():
        from spresso_jax.cli import evaluated_systems as columns
        from spresso_jax.evaluate import gain_tables, protocol, record_tables, tables
        from spresso_jax.evaluate.set_distances import DistanceOptions
        from spresso_jax.evaluate.test_sets import joined, named_folders, read_set

        if (data is None) == (reference is None):
            raise ValueError("give either --data (sounds to decode) or --reference (sounds beside decoded folders)")
        asked = named_folders(data or reference or [])
        of_models = [m for m in models if data is not None or columns.is_model(m)]
        of_folders = [m for m in models if m not in of_models]
        if gain_only and (not of_models or of_folders or gain_clips < 2):
            raise ValueError("--gain-only needs models, --data and at least 2 --gain-clips")
        if gain_only and columns.holds_decoded(out / protocol.SCORES):
            raise ValueError(f"{out} holds an evaluation of decoded sounds: give another --out to --gain-only")
        if bandwidth not in ("reference", "evaluation"):
            raise ValueError(f"--bandwidth must be reference or evaluation, got {bandwidth!r}")
        sets = [read_set(name, folder, clips, seed) for name, folder in asked]
        for part in sets:
            _say_exclusions(part)
        if incomplete and of_folders:
            sets, gone = columns.incomplete_clips(of_folders, sets)
            if gone:
                typer.echo(f"{gone} clips left out of all systems: no readable decoded file", err=True)
        chosen = joined(sets)
        systems: list[System] = [protocol.source_system()]
        systems += [] if gain_only else columns.decoded_systems(of_folders, sets, chosen)
        embeddings = [] if gain_only else _embeddings(embedding or ["auto"])
        made, facts = columns.model_systems(
            of_models, chosen, codebooks or [], steps, sampler, seed, gain_clips, ceiling=ceiling
        )
        spaces = [protocol.MEL_SPACE]
        if not gain_only:
            systems = columns.bounds_first([*systems, *made])
            clap_space = columns.clap_space(clap, of_models)
            if clap_space is not None:
                spaces.append(clap_space)
            rates = [s.frame_rate for s in systems if s.frame_rate and s.kind in ("continuous", "discrete")]
            sizes = [len(part.clips) for part in sets]
            systems += [protocol.low_pass_control(), *protocol.controls(chosen, rates, seed, sizes)]
        extra: dict[str, Any] = {"data": ", ".join(part.folder for part in sets)}
        if of_models:
            extra |= {"steps": steps, "sampler": sampler, "decode_seed": f"{seed} + clip index"}
        options = protocol.Options(
            seed=seed,
            candidates=candidates,
            extra=extra,
            max_delay=max_delay,
            padded=not own_length,
            distances=DistanceOptions(
                fad_draws=draws // 5,
                kad_draws=draws,
                permutations=max(draws, 1) - 1,
                fad_inf=fad_inf,
                bandwidth_from=bandwidth,
            ),
        )
        scores = protocol.evaluate(
            chosen,
            systems,
            out,
            options=options,
            spaces=spaces,
            models=facts,
            progress=progress_lines(),
            sets=sets,
            embeddings=embeddings,
            cache=cache,
            workers=workers or os.cpu_count() or 1,
        )
        if gain_only:
            typer.echo(gain_tables.gain_markdown(scores))
        else:
            typer.echo(tables.markdown_table(scores) + record_tables.markdown_records(scores))
        typer.echo(f"wrote {out / protocol.SCORES}, {protocol.TABLE} and {protocol.TEX}; next: spresso report {out}")


def report(
    out: Annotated[Path, typer.Argument(help="Folder that `spresso evaluate` filled.")],
    runs: Annotated[
        list[Path] | None, typer.Option("--runs", help="Run folder for its loss curves; repeat for every stage.")
    ] = None,
    sounds: Annotated[int, typer.Option(min=1, help="Rows of the page.")] = 12,
    page: Annotated[Path | None, typer.Option(help="The file to write; default OUT/index.html.")] = None,
) -> None:
    """Writes one self-contained page: players and spectrograms, the table of figures, loss curves."""
    with user_errors():
        from spresso_jax.evaluate.report import LARGE_BYTES, write_report

        path = write_report(out, runs or [], sounds=sounds, page=page)
        size = path.stat().st_size
        typer.echo(f"wrote {path} ({size / 1e6:.1f} MB)")
        if size > LARGE_BYTES:
            typer.echo("that is large for an e-mail attachment: fewer --sounds make it smaller")


def load_clips(folder: Path, count: int, seed: int) -> list[Clip]:
    """The clips of `test_sets.read_set`, the same that `spresso evaluate` takes; what was left out is said."""
    from spresso_jax.evaluate.test_sets import read_set

    found = read_set("set", folder, count, seed)
    _say_exclusions(found)
    return list(found.clips)


def _say_exclusions(part: ClipSet) -> None:
    """A line for each reason, on stderr; scores.json has all names."""
    for why, names in part.exclusions.items():
        more = ", ..." if len(names) > 3 else ""
        typer.echo(f"{part.folder}: left out {len(names)} ({why}): {', '.join(names[:3])}{more}", err=True)


def _embeddings(asked: Sequence[str]) -> list[tuple[Extractor, EmbeddingSource]]:
    """Extractors and what their scores are called; "auto" takes the installed packages and says what is missing."""
    from spresso_jax.evaluate.features.extractor import FeatureError
    from spresso_jax.evaluate.features.registry import load_embedding

    found: list[tuple[Extractor, EmbeddingSource]] = []
    if "none" in asked and len(asked) > 1:
        raise ValueError("--embedding none goes alone")
    for name in asked:
        if name == "none":
            continue
        if name != "auto":
            extractor = load_embedding(name)
            found.append((extractor, _source(extractor, name)))
            continue
        for installed in ("aisfx", "yamnet"):
            try:
                extractor = load_embedding(installed)
            except FeatureError as error:
                typer.echo(f"no FAD[{installed}] and KAD[{installed}]: {error}", err=True)
            else:
                found.append((extractor, _source(extractor, installed)))
    if not found:
        typer.echo(
            "no embedding network: distances of sets are of log-mel statistics alone (FAD[mel-shape], KAD[mel-shape]), "
            "which no published table uses; docs/evaluation.md says how to get others",
            err=True,
        )
    return found


def _source(extractor: Extractor, asked: str) -> EmbeddingSource:
    """Name and fingerprint of an embedding; "vggish" only for what was imported from the release file itself."""
    from spresso_jax.checkpoints.weights import load_facts
    from spresso_jax.evaluate.score import EmbeddingSource

    name, published = extractor.name, False
    if name == "vggish":
        steps = load_facts(asked.partition("=")[2]).get("provenance") or []
        published = any(str(step.get("sha256", "")).startswith(VGGISH_RELEASE) for step in steps)
        name = name if published else "vggish-imported"
    return EmbeddingSource(name, f"weights {extractor.weights[:12]}", extractor.fingerprint, published)


def progress_lines() -> Callable[[str, int, int], None]:
    """One plain line for every tenth of a column, on stderr."""
    shown: dict[str, int] = {}

    def show(what: str, done: int, total: int) -> None:
        tenth = done * 10 // total
        if shown.get(what) != tenth:
            shown[what] = tenth
            typer.echo(f"{what}: {done}/{total}", err=True)

    return show
