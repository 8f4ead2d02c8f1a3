"""`quantizer`: vectors in .npy files -> codes and back, the report on a quantizer, and its official checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spresso_jax.cli.errors import user_errors

quantizer_app = typer.Typer(
    help="Code vectors of .npy files with a quantizer alone, and measure it; no audio is involved.",
    no_args_is_help=True,
)

_Model = Annotated[
    str, typer.Argument(help="Run folder, model folder (of the audio chain too), or the name of a model.")
]
_Preselect = Annotated[
    int | None, typer.Option(help="A, codewords that are tried for every kept code; 0 tries all. Default: the model's.")
]
_Beam = Annotated[int | None, typer.Option(help="B, codes that are kept while searching. Default: the model's.")]
_Force = Annotated[bool, typer.Option("--force", help="Overwrite the file.")]


@quantizer_app.command()
def encode(
    model: _Model,
    vectors: Annotated[Path, typer.Argument(help="Vectors [N, D], .npy.")],
    out: Annotated[Path, typer.Option(help="Codes [N, m], .npy, int16 (int32 above 32,768 codewords).")],
    codebooks: Annotated[int | None, typer.Option(help="m, codebooks to use. Default: all.")] = None,
    preselect: _Preselect = None,
    beam: _Beam = None,
    force: _Force = False,
) -> None:
    """Vectors -> codes. A row's codes depend on nothing but the row, the model, and the three options."""
    with user_errors():
        from spresso_jax.cli import vector_files
        from spresso_jax.cli.coding_jobs import check_targets

        check_targets([out], force)
        _check_other_file(vectors, out)
        import numpy as np

        from spresso_jax.quantizer import assign

        quantizer, params, _ = load_quantizer(model)
        # Refused here already, before any file is touched.
        width = assign.SearchWidth.of(quantizer, codebooks, preselect, beam, None)
        rows = vector_files.read_vectors(vectors, quantizer.dimension)
        progress = vector_files.RowProgress("encoded", len(rows), _tell)
        with vector_files.new_array(out, (len(rows), width.codebooks), assign.code_type(quantizer.codewords)) as made:
            step = vector_files.block_rows(1, quantizer.dimension)
            for block in vector_files.blocks(rows, vectors, step):
                codes = assign.encode(quantizer, params, block, codebooks, preselect=preselect, beam=beam)
                made[progress.done : progress.done + len(block)] = np.asarray(codes)
                progress.add(len(block))
        bits = width.codebooks * (quantizer.codewords - 1).bit_length()
        typer.echo(f"{progress.summary()}; wrote {out}: {width.codebooks} codes, {bits} bits a vector")


@quantizer_app.command()
def decode(
    model: _Model,
    codes: Annotated[Path, typer.Argument(help="Codes [N, m], .npy, of 1 to all codebooks.")],
    out: Annotated[Path, typer.Option(help="Vectors [N, D], .npy, float32.")],
    force: _Force = False,
) -> None:
    """Codes -> vectors."""
    with user_errors():
        from spresso_jax.cli import vector_files
        from spresso_jax.cli.coding_jobs import check_targets

        check_targets([out], force)
        _check_other_file(codes, out)
        import numpy as np

        quantizer, params, _ = load_quantizer(model)
        stored = vector_files.read_codes(codes, quantizer.codebooks)
        progress = vector_files.RowProgress("decoded", len(stored), _tell)
        step = vector_files.block_rows(quantizer.codebooks, quantizer.dimension)
        with vector_files.new_array(out, (len(stored), quantizer.dimension), np.float32) as made:
            for block in vector_files.code_blocks(stored, codes, quantizer.codewords, step):
                # Every block has one shape, so that one program is compiled.
                padded = np.zeros((step, block.shape[1]), np.int32)
                padded[: len(block)] = block
                decoded = quantizer.decode(params, padded)[: len(block)]
                made[progress.done : progress.done + len(block)] = np.asarray(decoded)
                progress.add(len(block))
        typer.echo(f"{progress.summary()}; wrote {out}")


@quantizer_app.command()
def report(
    model: _Model,
    vectors: Annotated[
        Path, typer.Option(help="Vectors [N, D] that were not trained on: .npy, or a folder of embeddings (its val split).")
    ],
    train_vectors: Annotated[
        Path | None,
        typer.Option(
            help="Vectors of the training, .npy or such a folder: shown beside, needed for plain RQ and the entropy coder."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the report. Default: report/quantizer of a run.")] = None,
    preselect: _Preselect = None,
    beam: _Beam = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Measure at most so many rows of each file, evenly spread. Default: all.")
    ] = None,
) -> None:
    """Writes report.json, report.md and pictures: error of every rate, use of the codewords, and what bounds them."""
    with user_errors():
        from spresso_jax.cli import vector_files
        from spresso_jax.evaluate import quantizer_measures, quantizer_report

        run = Path(model) / "model"
        if out is None and not run.is_dir():
            raise ValueError(f"{model} is no run folder, which has a place for reports: give --out FOLDER")
        out = out or Path(model) / "report" / "quantizer"
        quantizer, params, name = load_quantizer(model)
        search = quantizer_measures.search_of(quantizer, preselect, beam)
        files = {"val": vectors} | ({"train": train_vectors} if train_vectors is not None else {})
        splits, baseline, baseline_rows = {}, None, 0
        found = {split: vector_files.read_vectors(path, quantizer.dimension, split) for split, path in files.items()}
        if "train" in found:
            if len(found["train"]) < quantizer.codewords:
                raise ValueError(
                    f"{train_vectors} holds {len(found['train'])} vectors, fewer than the {quantizer.codewords} codewords"
                    " of plain RQ: give all training vectors, or leave out --train-vectors"
                )
            # Not fewer than the quantizer itself may have seen, whatever is measured.
            every = _stride(len(found["train"]), quantizer_measures.BASELINE_ROWS)
            baseline_rows = -(-len(found["train"]) // every)
            _tell(f"fitting plain residual quantization to {baseline_rows:,} rows")
            checked = list(vector_files.blocks(found["train"], train_vectors, vector_files.BLOCK_ROWS, every))
            baseline = quantizer_measures.plain_residual_quantizer(quantizer, params, search, checked)
        step = vector_files.block_rows(quantizer.codebooks, quantizer.dimension)
        for split, array in found.items():
            every = _stride(len(array), rows)
            progress = vector_files.RowProgress(f"{split}: measured", -(-len(array) // every), _tell)
            measured = quantizer_measures.SplitMeasures(quantizer, params, search, baseline)
            for block in vector_files.blocks(array, files[split], step, every):
                measured.add(block)
                progress.add(len(block))
            splits[split] = measured
        numbers = quantizer_report.numbers(quantizer, search, splits, baseline_rows)
        numbers |= {"model": name, "files": {split: str(path) for split, path in files.items()}}
        quantizer_report.write(out, numbers)
        typer.echo(quantizer_report.summary(numbers))
        typer.echo(f"wrote {out / 'report.md'}, report.json and pictures")


@quantizer_app.command()
def export(
    model: _Model,
    out: Annotated[Path, typer.Option(help="Checkpoint to write, .pt, for the QINCo2 project's own code.")],
    force: _Force = False,
) -> None:
    """Writes the quantizer as the QINCo2 project's checkpoint: tensors only, read by torch.load(weights_only=True)."""
    with user_errors():
        from spresso_jax.cli.coding_jobs import check_targets

        check_targets([out], force)
        from spresso_jax.interop.qinco import save_checkpoint

        quantizer, params, name = load_quantizer(model)
        save_checkpoint(out, quantizer, params)
        typer.echo(
            f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB): the quantizer of {name}, without an optimiser's state"
        )


def load_quantizer(model: str) -> tuple[Any, Any, str]:
    """(quantizer, parameters on the device, the model's name) of a run, a model folder, or a model of the package.

    Raises:
      ModelFolderError: if there is none, or it holds no whole quantizer.
    """
    from spresso_jax.checkpoints.weights import ModelFolderError, find_model_folder, load_facts, load_model
    from spresso_jax.codec.networks import prepared

    if Path(model).is_file():
        raise ModelFolderError(f"{model} is a file: turn a QINCo2 checkpoint into a model with spresso import qinco")
    run = Path(model) / "model"
    folder = run if run.is_dir() else find_model_folder(model)
    facts = load_facts(folder)
    if "quantizer.safetensors" not in facts["fingerprints"]:
        raise ModelFolderError(f"{folder} holds no quantizer: train one, or choose another model")
    network = load_model(folder, only=["quantizer"]).networks["quantizer"]
    import jax

    quantizer, params = prepared("quantizer", network, jax.default_backend() == "cpu")
    return quantizer, params, str(facts.get("name") or model)


def _stride(count: int, most: int | None) -> int:
    return 1 if most is None else -(-count // most)


def _check_other_file(source: Path, out: Path) -> None:
    if out.resolve() == source.resolve():
        raise ValueError(f"{source} would overwrite itself: give another file to --out")


def _tell(text: str) -> None:
    typer.echo(text, err=True)
