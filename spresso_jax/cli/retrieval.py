"""`retrieval`: how well a CLAP finds held-out sounds by caption and captions by sound, beside chance and text alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spresso_jax.cli.errors import user_errors

BATCH = 32


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("retrieval")(retrieval)


def retrieval(
    model: Annotated[str, typer.Argument(help="Model folder with a CLAP that compares sounds.")],
    data: Annotated[Path, typer.Option(help="Folder of shards: val is searched, train is the baseline's library.")],
    text_encoder: Annotated[
        str,
        typer.Option(help="What `spresso import sentence-encoder` wrote: reads captions for the text-only baseline."),
    ],
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Recall of a CLAP on the val split, both ways, beside chance and beside a text-only baseline."""
    with user_errors():
        import json

        from data_pipeline.records import splits_of
        from spresso_jax.checkpoints.weights import load_model
        from spresso_jax.evaluate.caption_retrieval import compare
        from spresso_jax.evaluate.denoiser import clap_embedding
        from spresso_jax.evaluate.retrieval import spectral_shape

        splits = splits_of(data)
        if not {"train", "val"} <= set(splits):
            raise ValueError(f"{data} has the splits {', '.join(splits) or 'none'}: retrieval needs train and val")
        clap, encoder = load_model(model, only=["clap"]), load_model(text_encoder, only=["clap"])
        embed = clap_embedding(clap)
        held_out, library = (list(_captioned(data, split)) for split in ("val", "train"))
        if len(held_out) < 2 or not library:
            raise ValueError(
                f"{data}: {len(held_out)} val and {len(library)} train clips have sound and a caption: too few"
            )
        captions = [caption for caption, _ in held_out]
        import numpy as np

        report = compare(
            captions,
            np.stack([embed(audio) for _, audio in held_out]),
            _pooled(clap, model, captions),
            _pooled(encoder, text_encoder, captions),
            np.stack([spectral_shape(audio) for _, audio in held_out]),
            _pooled(encoder, text_encoder, [caption for caption, _ in library]),
            np.stack([spectral_shape(audio) for _, audio in library]),
        )
        result = {
            "model": str(clap.facts.get("name") or model),
            "fingerprint": clap.facts["fingerprints"]["clap.safetensors"],
            "text_encoder": str(encoder.facts.get("name") or text_encoder),
            "data": data.name,
            "clips": len(held_out),
            "library": len(library),
            **report,
        }
        for direction in ("text_to_audio", "audio_to_text"):
            for system, recalls in report[direction].items():
                typer.echo(
                    f"{direction} {system}: " + "  ".join(f"{name} {value:.3f}" for name, value in recalls.items())
                )
        typer.echo(f"{len(held_out)} clips with sound and a caption, library of {len(library)}")
        if out is not None:
            out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _captioned(data: Path, split: str) -> Any:
    """(first caption, audio [S] at its most active 5 s) of every clip that has a caption and is not silent."""
    from data_pipeline import loader
    from spresso_jax.evaluate.retrieval import prepare
    from spresso_jax.shapes import CLIP_SAMPLES

    for clip in loader.ordered_clips(loader.Source(str(data), split), CLIP_SAMPLES, crop="most_active"):
        heard = prepare(clip["audio"][: clip["valid"], 0])
        if heard is not None and clip["caption"].strip():
            yield clip["caption"], heard.astype("float32")


def _pooled(model: Any, name: str, captions: list[str]) -> Any:
    """Pooled vectors `[N, E]` of captions by the model's own tokenizer and text tower."""
    import jax
    import numpy as np

    from spresso_jax.clap.tokenizer import Tokenizer
    from spresso_jax.codec.networks import prepared

    if not model.facts.get("tokenizer"):
        raise ValueError(f"{name} has no tokenizer: import it with one")
    tokenizer = Tokenizer.from_json(model.facts["tokenizer"])
    module, params = prepared("clap", model.networks["clap"], jax.default_backend() == "cpu")
    encode = jax.jit(lambda p, ids, mask: module.apply({"params": p}, ids, mask, method="encode_text")[1])
    # No longer than the longest caption: padding costs as much as words, and changes nothing.
    length = min(model.facts["text_tokens"], max(map(tokenizer.count, captions)))
    rows = []
    for start in range(0, len(captions), BATCH):
        part = captions[start : start + BATCH]
        ids, mask = tokenizer.encode_batch([*part, *[""] * (BATCH - len(part))], length)
        rows.append(np.asarray(encode(params, ids, mask))[: len(part)])
    return np.concatenate(rows)
