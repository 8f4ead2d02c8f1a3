"""How fast are the AudioAE's two networks? Encoder and decoder of 5 s, beside the same in torch, two threads each.

    python -m venv peers
    peers/bin/pip install torch==2.13.0 torchaudio==2.11.0 vocos==0.1.0
    python benchmarks/audio_ae_vocos.py --peer-python peers/bin/python

Sizes are those of `audio_ae:paper`. The torch side is made of the vocos package (`audio_ae_torch.py`): the decoder is its
VocosBackbone and ISTFTHead; the encoder an STFT, its VocosBackbone and a linear layer. Weights and inputs are the same on both
sides, and the run fails if the outputs differ.

Prints one JSON line: median seconds; how many times as fast we are (medians over the repetitions of the ratio within each);
GFLOP/s, counted by hand (matrix products and convolutions alone, two a multiplication; no FFT, norm or activation), also of
one large float32 product in the same turns; and `share_of_peak`, our rate beside that of this product on the side where it
was faster.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from pairing import THREADS, Side, alternate, median_ratio, rounded, run, serve

SECONDS = 5
KERNEL = 7
MATRIX = 2048
LARGEST_DIFFERENCE = 1e-3  # in standard deviations of the output


def ours(weights: str) -> None:
    import jax
    import jax.numpy as jnp
    import numpy as np
    from audio_ae_weights import autoencoder_params

    from spresso_jax.audio_ae.autoencoder import AudioAutoencoder
    from spresso_jax.configuration import load_config, to_plain
    from spresso_jax.shapes import HOP

    fields = to_plain(load_config("audio_ae:paper").model)
    module = AudioAutoencoder(**fields)
    with np.load(weights) as file:
        theirs = dict(file)
    params = jax.tree.map(jnp.asarray, autoencoder_params(theirs, fields["encoder_blocks"], HOP))
    audio, latent = jnp.asarray(theirs["audio"])[..., None], jnp.asarray(theirs["latent"])
    encode = jax.jit(lambda params, audio: module.apply({"params": params}, audio, method="encode"))
    decode = jax.jit(lambda params, latent: module.apply({"params": params}, latent, method="decode"))
    differences = {
        "encoder": _difference(np.asarray(encode(params, audio)), theirs["latent"]),
        "decoder": _difference(np.asarray(decode(params, latent))[..., 0], theirs["decoded"]),
    }
    assert max(differences.values()) < LARGEST_DIFFERENCE, f"outputs differ: {differences}"
    matrix, multiply = jax.random.normal(jax.random.key(0), (MATRIX, MATRIX)), jax.jit(jnp.matmul)
    runs = {
        "encoder": lambda: encode(params, audio).block_until_ready(),
        "decoder": lambda: decode(params, latent).block_until_ready(),
        "matmul": lambda: multiply(matrix, matrix).block_until_ready(),
    }
    serve({"versions": {"jax": jax.__version__}, "differences": differences}, runs)


def theirs(weights: str, sizes: dict[str, int], n_fft: int, hop: int, samples: int) -> None:
    from importlib.metadata import version

    import torch
    from audio_ae_torch import Autoencoder, disturb, save

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    model = Autoencoder(sizes, n_fft, hop).eval()
    disturb(model)
    audio, matrix = 0.1 * torch.randn(1, samples), torch.randn(MATRIX, MATRIX)
    with torch.inference_mode():
        latent = model.encoder(audio)
        decoded = model.decoder(latent)
        save(weights, {"": model}, audio=audio.numpy(), latent=latent.numpy(), decoded=decoded.numpy())
        runs = {
            "encoder": lambda: model.encoder(audio),
            "decoder": lambda: model.decoder(latent),
            "matmul": lambda: matrix @ matrix,
        }
        serve({"versions": {"torch": torch.__version__, "vocos": version("vocos")}}, runs)


def _difference(ours: Any, theirs: Any) -> float:
    assert ours.shape == theirs.shape, f"shapes differ: {ours.shape} and {theirs.shape}"
    return float(abs(ours - theirs).max() / theirs.std())


def _gflop(inputs: int, outputs: int, dim: int, intermediate: int, blocks: int, frames: int) -> float:
    """Of a backbone and its last layer."""
    block = KERNEL * dim + 2 * dim * intermediate
    return 2e-9 * frames * (KERNEL * inputs * dim + blocks * block + dim * outputs)


def compare(peer_python: str, repetitions: int) -> dict[str, Any]:
    from audio_ae_weights import sizes_of

    from spresso_jax.configuration import load_config
    from spresso_jax.shapes import FRAME_RATE, HOP, N_FFT, SAMPLE_RATE

    sizes = sizes_of(load_config("audio_ae:paper"))
    with tempfile.TemporaryDirectory() as folder:
        weights = str(Path(folder) / "weights.npz")
        task = dict(sizes=sizes, n_fft=N_FFT, hop=HOP, samples=SECONDS * SAMPLE_RATE)
        peer = Side(peer_python, __file__, "theirs", weights=weights, **task)
        own = Side(sys.executable, __file__, "ours", weights=weights)
    shared = dict(dim=sizes["dim"], intermediate=sizes["intermediate"], frames=SECONDS * FRAME_RATE)
    latents, bins = sizes["latent_channels"], N_FFT // 2 + 1
    work = {
        "encoder": _gflop(3 * bins, latents, blocks=sizes["encoder_blocks"], **shared),
        "decoder": _gflop(latents, 2 * bins, blocks=sizes["decoder_blocks"], **shared),
        "matmul": 2e-9 * MATRIX**3,
    }
    turns = {f"{side.name} {name}": (side, name) for name in work for side in (own, peer)}
    seconds = alternate(turns, repetitions)
    own.close()
    peer.close()
    rates = {label: [work[turns[label][1]] / value for value in values] for label, values in seconds.items()}
    peaks = [max(pair) for pair in zip(rates["ours matmul"], rates["theirs matmul"], strict=True)]
    networks = ("encoder", "decoder")
    return {
        "seconds": {label: rounded(median(values)) for label, values in seconds.items()},
        "gflops": {label: rounded(median(values)) for label, values in rates.items()},
        "times_torch": {name: median_ratio(seconds[f"theirs {name}"], seconds[f"ours {name}"]) for name in networks},
        "share_of_peak": {name: median_ratio(rates[f"ours {name}"], peaks) for name in networks},
        "differences": {name: rounded(value, 2) for name, value in own.facts["differences"].items()},
        "versions": own.facts["versions"] | peer.facts["versions"],
    }


if __name__ == "__main__":
    run(__file__, compare, {"ours": ours, "theirs": theirs})
