"""Music2Latent: 64 continuous channels, one vector every 4096 samples, decoded by a consistency model in one step.

It sends no bits. The package crops the end of a clip to its grid of 4096 samples plus 1536, so the clip is padded to the
grid before. The decoder starts from noise, hence the seed; half precision on CUDA is switched off.
"""

from __future__ import annotations

import os

HOP, EDGE, DIMENSION = 4096, 1536, 64

ABOUT = {
    "title": "Music2Latent",
    "package": "music2latent",
    "version": "0.1.8",
    "imports": ["torch", "music2latent.models"],
    "code_licence": "CC BY-NC 4.0",
    "weights_licence": "CC BY-NC 4.0",
    "weights_source": "Hugging Face SonyCSLParis/music2latent, music2latent.pt",
    "install": "pip install music2latent==0.1.8 && "
    "huggingface-cli download SonyCSLParis/music2latent music2latent.pt --local-dir WEIGHTS",
    "settings": {"rate": 44_100, "steps": 1},
    "notes": "padded to its grid before, cut after; float32 on every device",
}


def describe(settings):
    """44.1 kHz as trained (10.77 vectors a second) or 48 kHz, which it accepts (11.72)."""
    if settings["rate"] not in (44_100, 48_000):
        raise ValueError(f"rate must be 44100 or 48000, got {settings['rate']!r}")
    if not isinstance(settings["steps"], int) or settings["steps"] < 1:
        raise ValueError(f"steps must be a whole number from 1, got {settings['steps']!r}")
    return {
        "native_rate": settings["rate"],
        "channels": 1,
        "frame_rate": settings["rate"] / HOP,
        "dimension": DIMENSION,
        "nominal_bits_per_second": None,
        "deterministic": False,
    }


def find_weights(settings, given):
    """The file that was given, or the one that the package keeps inside itself."""
    if given:
        return [given] if os.path.isfile(given) else None
    import music2latent

    path = os.path.join(os.path.dirname(music2latent.__file__), "models", "music2latent.pt")
    return [path] if os.path.isfile(path) else None


def load(settings, weights, device):
    """The network, and the function that codes one clip."""
    import sys

    import numpy as np
    import torch
    from music2latent.inference import EncoderDecoder
    from music2latent.models import UNet

    for name, module in list(sys.modules.items()):
        if name.startswith("music2latent") and hasattr(module, "mixed_precision"):
            module.mixed_precision = False
    torch.manual_seed(0)
    codec = EncoderDecoder.__new__(EncoderDecoder)  # its constructor downloads
    codec.device = torch.device(device)
    codec.gen = UNet().to(device)
    if weights is not None:
        kept = torch.load(weights[0], map_location="cpu", weights_only=True)
        codec.gen.load_state_dict(kept["gen_state_dict"], strict=False)

    def code(audio, request):
        padded = max(-(-(audio.size - EDGE) // HOP), 1) * HOP + EDGE
        latents = codec.encode(np.pad(audio, (0, padded - audio.size)))
        torch.manual_seed(request["seed"])
        decoded = codec.decode(latents, denoising_steps=settings["steps"])
        return {"audio": np.asarray(decoded.cpu(), np.float32).reshape(-1), "payload": {}}

    return code
