"""`import`: weights of other projects -> a model folder that the stages take as --upstream."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spresso_jax.cli.errors import user_errors

# Tokens of a caption that LAION-CLAP was trained with.
LONGEST_CAPTION = 77

import_app = typer.Typer(help="Turn weights of other projects into model folders.", no_args_is_help=True)


@import_app.command("woosh-ae")
def woosh_ae(
    path: Annotated[Path, typer.Argument(help="Unpacked folder Woosh-AE: config.yaml and weights.safetensors.")],
    out: Annotated[Path, typer.Option(help="Model folder to write; must not exist.")],
    dtype: Annotated[str, typer.Option(help="Storage of the weights: float32 or float16.")] = "float32",
) -> None:
    """Imports the public Woosh autoencoder (non-commercial weights) in place of a trained audio_ae."""
    with user_errors():
        from spresso_jax.checkpoints.trees import flatten
        from spresso_jax.checkpoints.weights import Network, save_model
        from spresso_jax.interop.woosh import LICENCE, read_woosh_autoencoder
        from spresso_jax.shapes import CLIP_FRAMES, CLIP_SECONDS

        found = read_woosh_autoencoder(path)
        facts = {
            "name": "Woosh-AE",
            "licence": LICENCE,
            "latent_statistics": found.latent_statistics(),
            "provenance": [_autoencoder_origin(found)],
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
        _warn_of_channels(channels)
        typer.echo(f"licence: {LICENCE}")
        typer.echo(f"wrote {out}; go on with: spresso train clap --upstream {out} ...")


@import_app.command("woosh-flow")
def woosh_flow(
    path: Annotated[Path, typer.Argument(help="Unpacked folder Woosh-Flow: config.yaml and weights.safetensors.")],
    out: Annotated[Path, typer.Option(help="Model folder to write; must not exist.")],
    autoencoder: Annotated[
        Path | None, typer.Option(help="Unpacked Woosh-AE, or what import woosh-ae wrote. Default: beside PATH.")
    ] = None,
    text_conditioner: Annotated[
        Path | None, typer.Option(help="Unpacked folder TextConditionerA. Default: beside PATH.")
    ] = None,
    text_heads: Annotated[int, typer.Option(help="Attention heads of the text tower; no file tells them.")] = 16,
    vocab: Annotated[Path | None, typer.Option(help="vocab.json of roberta-large; needed for captions.")] = None,
    merges: Annotated[Path | None, typer.Option(help="merges.txt of roberta-large; needed for captions.")] = None,
    dtype: Annotated[str, typer.Option(help="Storage of the weights: float32 or float16.")] = "float32",
) -> None:
    """Imports the public Woosh text-to-audio model (non-commercial weights) in place of stages 1 to 3."""
    with user_errors():
        if (vocab is None) != (merges is None):
            raise ValueError("--vocab and --merges belong together: give both files of the tokenizer, or neither")

        from spresso_jax.checkpoints.trees import flatten
        from spresso_jax.checkpoints.weights import Network, save_model
        from spresso_jax.clap.tokenizer import read_bpe
        from spresso_jax.interop.woosh import LICENCE
        from spresso_jax.interop.woosh_flow import read_woosh_flow
        from spresso_jax.interop.woosh_text import read_woosh_text_conditioner
        from spresso_jax.shapes import CLIP_FRAMES

        beside = path.expanduser().resolve().parent
        flow = read_woosh_flow(path)
        text = read_woosh_text_conditioner(text_conditioner or beside / "TextConditionerA", text_heads)
        tokenizer = None if vocab is None else read_bpe(vocab, merges)
        if tokenizer is not None and tokenizer.vocabulary > text.config["vocabulary"]:
            raise ValueError(
                f"{vocab} has {tokenizer.vocabulary} tokens, the text tower knows {text.config['vocabulary']}: another tokenizer"
            )
        flow = flow.with_null_caption(*text.null_caption())
        audio_ae, statistics, origin = _woosh_autoencoder(autoencoder or beside / "Woosh-AE")
        channels = flow.config["latent_channels"]
        if audio_ae.config["latent_channels"] != channels:
            raise ValueError(
                f"the autoencoder has {audio_ae.config['latent_channels']} latent channels, {path} was trained on {channels}"
            )
        networks = {
            "audio_ae": audio_ae,
            "clap": Network(text.config, text.params, "TextConditioner"),
            "dit": Network(flow.config, flow.params, "DiT"),
        }
        facts = {
            "name": "Woosh-Flow",
            "licence": LICENCE,
            "latent_statistics": statistics,
            "tokenizer": None if tokenizer is None else tokenizer.to_json(),
            "text_tokens": flow.config["text_tokens"],
            "provenance": [origin, _origin("TextConditionerA", text), _origin("Woosh-Flow", flow)],
        }
        save_model(out, networks, facts, dtype=dtype)
        for name, network in networks.items():
            typer.echo(f"{name}: {sum(leaf.size for leaf in flatten(network.params).values()):,} parameters")
        typer.echo(
            f"a velocity network, used as a denoiser as it is (precond flow); trained on {flow.frames} frames, of which the "
            f"stages use {CLIP_FRAMES}; latents have the statistics of Woosh-AE's file"
        )
        _warn_of_channels(channels)
        if tokenizer is None:
            typer.echo(
                "warning: without --vocab and --merges captions cannot be read: the stages train and decode with the null "
                "caption alone",
                err=True,
            )
        typer.echo(f"licence: {LICENCE}")
        typer.echo(f"wrote {out}; go on with: spresso train diffusion_ae --upstream {out} ...")


@import_app.command("qinco")
def qinco(
    path: Annotated[Path, typer.Argument(help="Checkpoint of the QINCo2 project (.pt); nothing in it is executed.")],
    out: Annotated[Path, typer.Option(help="Model folder to write; must not exist.")],
    mean: Annotated[Path | None, typer.Option(help="data_mean [D] as .npy, for older files that lack it.")] = None,
    std: Annotated[
        Path | None, typer.Option(help="data_std, one number as .npy, for older files that lack it.")
    ] = None,
    preselect: Annotated[int | None, typer.Option(help="A, for older files that do not state it.")] = None,
    beam: Annotated[int | None, typer.Option(help="B, for older files that do not state it.")] = None,
    dtype: Annotated[str, typer.Option(help="Storage of the weights: float32 or float16.")] = "float32",
) -> None:
    """Imports a QINCo2 quantizer (released weights are non-commercial), for `spresso quantizer`."""
    with user_errors():
        if (mean is None) != (std is None):
            raise ValueError("--mean and --std belong together: give both, or neither for a file that holds them")

        import dataclasses

        from spresso_jax.checkpoints.fingerprint import file_sha256
        from spresso_jax.checkpoints.weights import Network, save_model
        from spresso_jax.cli.vector_files import read_array
        from spresso_jax.interop.qinco import LICENCE, load_checkpoint

        if not path.is_file():
            raise ValueError(f"{path}: no such file")
        statistics = [None if file is None else read_array(file) for file in (mean, std)]
        quantizer, params = load_checkpoint(path, *statistics, preselect=preselect, beam=beam)
        origin = {"imported": "QINCo2", "file": path.name, "sha256": file_sha256(path)}
        facts = {"name": path.stem, "licence": LICENCE, "provenance": [origin]}
        network = Network(dataclasses.asdict(quantizer), params, "Qinco")
        save_model(out, {"quantizer": network}, facts, dtype=dtype)
        typer.echo(
            f"found {quantizer.codebooks} codebooks of {quantizer.codewords} codewords for vectors of {quantizer.dimension}"
            f" numbers; A = {quantizer.preselect}, B = {quantizer.beam}"
        )
        typer.echo(f"licence: {LICENCE}")
        typer.echo(f"wrote {out}; go on with: spresso quantizer encode {out} VECTORS.npy --out CODES.npy")


@import_app.command("vggish")
def vggish(
    path: Annotated[Path, typer.Argument(help="vggish-10086976.pth of torchvggish's release, or the same as safetensors.")],
    out: Annotated[Path, typer.Option(help="Folder to write; must not exist.")],
    dtype: Annotated[str, typer.Option(help="Storage of the weights: float32 or float16.")] = "float32",
) -> None:
    """Imports VGGish (Apache-2.0), the embedding of the Frechet audio distance."""
    with user_errors():
        from spresso_jax.checkpoints.weights import Network, save_model
        from spresso_jax.interop.vggish import LICENCE, read_vggish

        found = read_vggish(path)
        facts = {"name": "VGGish", "licence": LICENCE, "provenance": [_origin("VGGish", found)]}
        save_model(out, {"vggish": Network(found.config, found.params, "Vggish")}, facts, dtype=dtype)
        typer.echo(f"{found.config['dimension']} values a row; licence: {LICENCE}")
        typer.echo(f"wrote {out}: the embedding vggish={out}")


@import_app.command("clap")
def clap(
    path: Annotated[Path, typer.Argument(help="Downloaded Hugging Face folder: config.json, model.safetensors, ...")],
    out: Annotated[Path, typer.Option(help="Model folder to write; must not exist.")],
    dtype: Annotated[str, typer.Option(help="Storage of the weights: float32 or float16.")] = "float32",
) -> None:
    """Imports an unfused LAION-CLAP (its licence stays), for evaluation and as text conditioner."""
    with user_errors():
        from spresso_jax.checkpoints.fingerprint import file_sha256
        from spresso_jax.checkpoints.weights import Network, save_model
        from spresso_jax.clap.tokenizer import Tokenizer
        from spresso_jax.interop.clap_huggingface import read_clap_folder

        config, params, tokenizer = read_clap_folder(path)
        weights = path.expanduser() / "model.safetensors"
        origin = {"imported": "LAION-CLAP", "file": weights.name, "sha256": file_sha256(weights)}
        facts: dict[str, Any] = {"name": "LAION-CLAP", "licence": "see the model's page", "provenance": [origin]}
        if tokenizer is not None:
            tokens = min(LONGEST_CAPTION, config["text_positions"] - 2)
            facts |= {"tokenizer": Tokenizer.from_json(tokenizer).to_json(), "text_tokens": tokens}
        save_model(out, {"clap": Network(config, params, "Clap")}, facts, dtype=dtype)
        typer.echo(f"{config['channels']} values a row, audio width {config['audio_width']}, depths {config['audio_depths']}")
        if tokenizer is None:
            typer.echo("warning: no tokenizer.json in the folder: captions cannot be read", err=True)
        typer.echo(f"wrote {out}: the embedding clap={out}")


def _woosh_autoencoder(folder: Path) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """(network, latent statistics, provenance) of a published folder, or of the model folder made from one.

    Raises:
      ValueError: if it is neither: Woosh-Flow knows no other latents, and no other statistics of them.
    """
    from spresso_jax.checkpoints.weights import FACTS_FILE, Network, load_facts, load_model
    from spresso_jax.interop.woosh import read_woosh_autoencoder

    if not (folder.expanduser() / FACTS_FILE).is_file():
        found = read_woosh_autoencoder(folder)
        network = Network(found.config, found.params, "AudioAutoencoder")
        return network, found.latent_statistics(), _autoencoder_origin(found)
    steps = load_facts(folder).get("provenance") or [{}]
    if steps[0].get("imported") != "Woosh-AE" or any(step.get("stage") == "audio_ae" for step in steps):
        raise ValueError(f"{folder} is not what import woosh-ae wrote: Woosh-Flow works on the latents of Woosh-AE alone")
    model = load_model(folder, only=["audio_ae"])
    return model.networks["audio_ae"], model.facts["latent_statistics"], steps[0]


def _origin(asset: str, found: Any) -> dict[str, Any]:
    from spresso_jax.checkpoints.fingerprint import file_sha256

    return {
        "imported": asset,
        "file": found.weights_file.name,
        "sha256": file_sha256(found.weights_file),
        "dtype": ", ".join(found.dtypes),
    }


def _autoencoder_origin(found: Any) -> dict[str, Any]:
    return _origin("Woosh-AE", found) | {"latent_statistics": "z_mean and z_std of the file"}


def _warn_of_channels(channels: int) -> None:
    from spresso_jax.shapes import LATENT_CHANNELS

    if channels != LATENT_CHANNELS:
        typer.echo(f"warning: the later stages take {LATENT_CHANNELS} latent channels, not {channels}", err=True)
