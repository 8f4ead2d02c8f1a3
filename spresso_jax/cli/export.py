"""`export`: a run or model folder -> a model folder to hand on, with its model card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spresso_jax.cli.errors import user_errors


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""
    app.command()(export)


def export(
    source: Annotated[Path, typer.Argument(help="Run folder (its model is taken) or model folder.")],
    out: Annotated[Path, typer.Option(help="Folder of the exported model; must not exist.")],
    dtype: Annotated[str, typer.Option(help="Storage of the weights: float32 or float16.")] = "float16",
    name: Annotated[str | None, typer.Option(help="Name in model.json; the folder's name by default.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the weights, for model.json and the card.")] = None,
    card: Annotated[Path | None, typer.Option(help="Markdown that becomes the model card's body.")] = None,
) -> None:
    """Writes safetensors with configs inside, model.json and README.md; the codec reads that folder and nothing else."""
    with user_errors():
        from spresso_jax.checkpoints.weights import load_model, save_model
        from spresso_jax.export.model_card import model_card

        model = load_model(source / "model" if (source / "model").is_dir() else source)
        facts = {**model.facts, "name": name or out.name}
        if licence:
            facts["licence"] = licence
        save_model(out, model.networks, facts, dtype=dtype)
        body = card.read_text(encoding="utf-8") if card else ""
        (out / "README.md").write_text(model_card(load_model(out), body), encoding="utf-8")
        size = sum(path.stat().st_size for path in out.iterdir())
        typer.echo(f"wrote {out} ({size / 1e6:.1f} MB, {dtype}); use it with: spresso encode SOUND --model {out}")
