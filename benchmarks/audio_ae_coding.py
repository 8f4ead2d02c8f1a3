"""How fast is coding? Encoding and decoding 5 s with the AudioAE, beside DAC and EnCodec, two threads each.

    python -m venv peers
    peers/bin/pip install torch==2.13.0 torchaudio==2.11.0 descript-audio-codec==1.0.0 encodec==0.1.1
    python benchmarks/audio_ae_coding.py --peer-python peers/bin/python

Weights are random on all sides, which does not change the speed. Each codec gets one clip of five seconds as its authors
configured it:

  ours     `audio_ae:paper` through `LatentCodec`, 48 kHz mono; the code is continuous latents.
  dac      descript-audio-codec's default, 44.1 kHz mono, 9 codebooks.
  encodec  the 48 kHz model at 6 kbit/s. It is a stereo model that codes one second after the other: the mono clip is
           duplicated.

The peers quantize too, which is a small part of their time. Prints one JSON line: median seconds, real-time factors (seconds
of sound encoded and decoded in a second), and how many times as fast we are, the median over the repetitions of the ratio
within each.
"""

from __future__ import annotations

import sys
from statistics import median
from typing import Any

from pairing import THREADS, Side, alternate, median_ratio, rounded, run, serve

SECONDS = 5


def ours() -> None:
    import jax
    import numpy as np

    from spresso_jax.audio_ae.autoencoder import AudioAutoencoder
    from spresso_jax.checkpoints.weights import Model, Network
    from spresso_jax.codec.latent_codec import LatentCodec
    from spresso_jax.configuration import load_config, to_plain
    from spresso_jax.shapes import HOP, SAMPLE_RATE

    fields = to_plain(load_config("audio_ae:paper").model)
    example = np.zeros((1, 8 * HOP, 1), np.float32)
    params = jax.jit(AudioAutoencoder(**fields).init)(jax.random.key(0), example)["params"]
    channels = fields["latent_channels"]
    facts = {"latent_statistics": {"mean": [0.0] * channels, "std": [1.0] * channels}}
    codec = LatentCodec(Model({"audio_ae": Network(fields, params)}, facts))
    clip = _noise(SAMPLE_RATE)

    def code() -> None:
        decoded = codec.decode(codec.encode(clip, SAMPLE_RATE), len(clip))
        assert decoded.shape == (len(clip), 1), decoded.shape

    serve({"jax": jax.__version__}, {"code": code})


def dac() -> None:
    from importlib.metadata import version

    import torch
    from dac.model import DAC

    clip, model = _torch_clip(44_100), DAC().eval()

    def code() -> None:
        with torch.inference_mode():
            decoded = model(clip, 44_100)["audio"]
        assert decoded.shape == clip.shape, decoded.shape

    serve({"torch": torch.__version__, "descript-audio-codec": version("descript-audio-codec")}, {"code": code})


def encodec() -> None:
    from importlib.metadata import version

    import torch
    from encodec import EncodecModel

    clip = _torch_clip(48_000).expand(1, 2, -1).contiguous()
    model = EncodecModel.encodec_model_48khz(pretrained=False)
    model.set_target_bandwidth(6.0)
    for layer in model.quantizer.vq.layers:
        torch.nn.init.normal_(layer._codebook.embed)  # zeros before training

    def code() -> None:
        with torch.inference_mode():
            decoded = model(clip)
        assert decoded.shape == clip.shape, decoded.shape

    serve({"encodec": version("encodec")}, {"code": code})


def _noise(sample_rate: int) -> Any:
    import numpy as np

    return (0.1 * np.random.default_rng(0).standard_normal(SECONDS * sample_rate)).astype(np.float32)


def _torch_clip(sample_rate: int) -> Any:
    import torch

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    return torch.from_numpy(_noise(sample_rate))[None, None]


def compare(peer_python: str, repetitions: int) -> dict[str, Any]:
    sides = {"ours": Side(sys.executable, __file__, "ours")}
    sides |= {name: Side(peer_python, __file__, name) for name in ("dac", "encodec")}
    seconds = alternate({name: (side, "code") for name, side in sides.items()}, repetitions)
    medians = {name: median(values) for name, values in seconds.items()}
    versions = {name: version for side in sides.values() for name, version in side.facts.items()}
    for side in sides.values():
        side.close()
    return {
        "seconds": {name: rounded(value) for name, value in medians.items()},
        "real_time_factor": {name: rounded(SECONDS / value) for name, value in medians.items()},
        "times_dac": median_ratio(seconds["dac"], seconds["ours"]),
        "times_encodec": median_ratio(seconds["encodec"], seconds["ours"]),
        "versions": versions,
    }


if __name__ == "__main__":
    run(__file__, compare, {"ours": ours, "dac": dac, "encodec": encodec})
