"""DAC at 44.1 kHz: residual codebooks of 10 bits at 86.13 frames a second, chosen by `n_quantizers`.

`compress()` of the package normalises to -16 dB and cuts into windows; this is the plain encode and decode path, which
does neither, and it decodes from the codes, so that what is counted is what the decoder got.
"""

from __future__ import annotations

import os

RATE, HOP, CODEBOOKS, BITS = 44_100, 512, 9, 10
FILE = "weights_44khz_8kbps_0.0.1.pth"

ABOUT = {
    "title": "DAC",
    "package": "descript-audio-codec",
    "version": "1.0.0",
    "imports": ["torch", "dac"],
    "code_licence": "MIT",
    "weights_licence": "MIT",
    "weights_source": "GitHub release 0.0.1 of descriptinc/descript-audio-codec, weights.pth",
    "install": "pip install descript-audio-codec==1.0.0 && python -m dac download --model_type 44khz",
    "settings": {"n_quantizers": 2},
    "notes": "plain encode/decode path: no loudness normalisation, no windows",
}


def describe(settings):
    """1 to 9 codebooks, 0.861 kbps each."""
    count = settings["n_quantizers"]
    if not isinstance(count, int) or not 1 <= count <= CODEBOOKS:
        raise ValueError(f"n_quantizers must be a whole number from 1 to {CODEBOOKS}, got {count!r}")
    return {
        "native_rate": RATE,
        "channels": 1,
        "frame_rate": RATE / HOP,
        "codebooks": count,
        "nominal_bits_per_second": count * BITS * RATE / HOP,
        "deterministic": True,
    }


def find_weights(settings, given):
    """The file that `python -m dac download` keeps, or the one that was given."""
    path = given or os.path.join(os.path.expanduser("~"), ".cache", "descript", "dac", FILE)
    return [path] if os.path.isfile(path) else None


def load(settings, weights, device):
    """The network, and the function that codes one clip."""
    import inspect

    import torch
    from dac.model import DAC

    torch.manual_seed(0)
    if weights is None:
        model = DAC()
    else:
        kept = torch.load(weights[0], map_location="cpu", weights_only=True)
        known = inspect.signature(DAC).parameters
        model = DAC(**{key: value for key, value in kept["metadata"]["kwargs"].items() if key in known})
        model.load_state_dict(kept["state_dict"])
    if (model.sample_rate, int(model.hop_length), model.codebook_size) != (RATE, HOP, 2**BITS):
        raise ValueError(f"these weights are of another DAC ({model.sample_rate} Hz): the 44.1 kHz one is needed")
    model = model.to(device).eval()

    @torch.inference_mode()
    def code(audio, request):
        wave = model.preprocess(torch.from_numpy(audio)[None, None].to(device), RATE)
        codes = model.encode(wave, settings["n_quantizers"])[1]
        decoded = model.decode(model.quantizer.from_codes(codes)[0])
        return {"audio": decoded[0, 0].cpu().numpy(), "payload": {"codes": (codes[0].cpu().numpy(), BITS)}}

    return code
