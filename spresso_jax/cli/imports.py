"""`import`: weights of other projects -> a model folder that the stages take as --upstream."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spresso_jax.cli.errors import user_errors

import_app = typer.Typer(help="Turn weights of other projects into model folders.", no_args_is_help=True)


@import_app.command("woosh-ae")
def woosh_ae(
    path: Annotated[Path, typer.Argument(help="Unpacked folder Woosh-AE: config.yaml and weights.safetensors.")],
    out: Annotated[Path, typer.Option(help="Model folder to write; must not exist.")],
    dtype: Annotated[str, typer.Option(help="Storage of the weights: float32 or float16.")] = "float32",
) -> None:
    """Imports the public Woosh autoencoder (non-commercial weights) in place of a trained audio_ae."""
    with user_errors():
        from spresso_jax.checkpoints.fingerprint import file_sha256
        from spresso_jax.checkpoints.trees import flatten
        from spresso_jax.checkpoints.weights import Network, save_model
        from spresso_jax.interop.woosh import LICENCE, read_woosh_autoencoder
        from spresso_jax.shapes import CLIP_FRAMES, CLIP_SECONDS, LATENT_CHANNELS

        found = read_woosh_autoencoder(path)
        facts = {
            "name": "Woosh-AE",
            "licence": LICENCE,
            "latent_statistics": found.latent_statistics(),
            "provenance": [
                {
                    "imported": "Woosh-AE",
                    "file": found.weights_file.name,
                    "sha256": file_sha256(found.weights_file),
                    "dtype": ", ".join(found.dtypes),
                    "latent_statistics": "z_mean and z_std of the file",
                }
            ],
        }
        network = Network(found.config, found.params, "AudioAutoencoder")
        save_model(out, {"audio_ae": network}, facts, dtype=dtype)
        count = sum(leaf.size for leaf in flatten(found.params).values())
        channels = found.config["latent_channels"]
        typer.echo(
            f"found {count:,} parameters in {', '.join(found.dtypes)}: width {found.config['dim']}, "
            f"{found.config['encoder_blocks']} + {found.config['decoder_blocks']} blocks"
        )
        typer.echo(
            f"latents: {channels} channels, {CLIP_FRAMES + 1} frames per {CLIP_SECONDS:g} s of which {CLIP_FRAMES} are used; "
            "statistics as in the file"
        )
        if channels != LATENT_CHANNELS:
            typer.echo(f"warning: the later stages take {LATENT_CHANNELS} latent channels, not {channels}", err=True)
        typer.echo(f"licence: {LICENCE}")
        typer.echo(f"wrote {out}; go on with: spresso train clap --upstream {out} ...")
