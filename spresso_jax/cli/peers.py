"""`spresso peers list` and `spresso peers run`: other codecs on the same sounds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spresso_jax.cli.errors import user_errors

peers_app = typer.Typer(help="Runs other codecs on the same sounds, each in a Python of its own.", no_args_is_help=True)

Pythons = Annotated[list[str] | None, typer.Option("--python", help="PEER=PATH of the Python that has it; repeat.")]
Weights = Annotated[
    list[str] | None, typer.Option("--weights", help="PEER=PATH of weights that lie elsewhere; repeat.")
]
Environments = Annotated[Path | None, typer.Option(help="TOML file with a table [PEER] of python and weights.")]


@peers_app.command("list")
def list_peers(python: Pythons = None, weights: Weights = None, environments: Environments = None) -> None:
    """Names, versions, licences and settings; with a Python for a peer, also whether it is ready to run."""
    with user_errors():
        from spresso_jax.evaluate.peers.adapter import NAMES, module_of
        from spresso_jax.evaluate.peers.environments import read_environments

        known = read_environments(environments, python or [], weights or [])
        for name in NAMES:
            about = module_of(name).ABOUT
            settings = " ".join(f"{key}={value}" for key, value in about["settings"].items())
            typer.echo(f"{name}: {about['title']}, {about['package']} {about['version']}")
            typer.echo(f"  licences: code {about['code_licence']}; weights {about['weights_licence']}")
            typer.echo(f"  settings: {settings or 'none'}")
            typer.echo(f"  here: {_state(name, known.get(name, {}))}")


@peers_app.command("run")
def run_peer(
    peer: Annotated[str, typer.Argument(help="Name of the peer; `spresso peers list` has them.")],
    data: Annotated[Path, typer.Option(help="Folder of sounds, or of shards (their val split).")],
    out: Annotated[Path, typer.Option(help="Folder that gets a folder for this peer; resumed if it is there.")],
    settings: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE of a setting; repeat.")] = None,
    python: Pythons = None,
    weights: Weights = None,
    environments: Environments = None,
    clips: Annotated[int, typer.Option(min=2, help="Number of clips, drawn with --seed.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of clips and of generative decoders.")] = 0,
    device: Annotated[str, typer.Option(help="Where its network runs: cpu, cuda.")] = "cpu",
    limit: Annotated[float, typer.Option(min=1, help="Seconds for loading, and for each clip.")] = 600.0,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Self-check of lengths and bits; never enters a table.")
    ] = False,
) -> None:
    """Codes clips with a peer: decoded wavs and spresso-peer.json with its real bits and facts."""
    with user_errors():
        from spresso_jax.cli.evaluate import load_clips, progress_lines
        from spresso_jax.evaluate.peers.adapter import code_clips, make_peer
        from spresso_jax.evaluate.peers.environments import read_environments

        known = read_environments(environments, python or [], weights or []).get(peer, {})
        made = make_peer(
            peer,
            _settings(settings or []),
            python=known.get("python"),
            weights=known.get("weights"),
            seed=seed,
            device=device,
            load_seconds=limit,
            clip_seconds=limit,
            random_weights=random_weights,
        )
        folder = out / made.key
        record = code_clips(made, load_clips(data, clips, seed), folder, progress=progress_lines())
        if record.status != "coded":
            typer.echo(f"{peer}: {record.status}: {record.detail}")
            return
        seconds = sum(entry["samples"] for entry in record.files.values()) / 48_000
        rate = f"{record.kbps:.4g} kbps" if record.kbps is not None else "no bits"
        typer.echo(f"wrote {len(record.files)} clips ({seconds:.1f} s, {rate}) to {folder}")
        if record.random_weights:
            typer.echo("random weights: these sounds mean nothing and enter no table")


def _state(name: str, known: dict[str, str]) -> str:
    """Ready, or what is missing."""
    import tempfile

    from spresso_jax.evaluate.peers.adapter import PROGRAMS, make_peer
    from spresso_jax.evaluate.peers.process import Child, PeerError

    if name not in PROGRAMS and "python" not in known:
        return f"not asked, give --python {name}=PATH"
    with tempfile.TemporaryDirectory() as folder:
        try:
            with Child(make_peer(name, **known), Path(folder), Path(folder) / "child.log") as child:
                return (
                    f"ready, {child.facts['version']}" if child.status == "ready" else f"{child.status}: {child.detail}"
                )
        except PeerError as error:
            return str(error)


def _settings(pairs: list[str]) -> dict[str, Any]:
    """NAME=VALUE texts; numbers become numbers."""
    chosen: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"--set {pair!r}: write NAME=VALUE")
        for kind in (int, float, str):
            try:
                chosen[name] = kind(text)
                break
            except ValueError:
                continue
    return chosen
