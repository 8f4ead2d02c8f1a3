"""EnCodec: 24 kHz mono (75 frames a second) or 48 kHz stereo (150), residual codebooks of 10 bits, no language model.

The 48 kHz model cuts into segments of 1 s every 0.99 s and scales each to unit loudness: its decoder needs one float32 a
segment, which the nominal bitrate leaves out and the count here does not. The mono clip goes in twice, the output is the
mean of both channels.
"""

from __future__ import annotations

import os

BITS, SCALE_BITS = 10, 32
MODELS = {
    "24khz": (24_000, 1, 75, (1.5, 3.0, 6.0, 12.0, 24.0), "encodec_24khz-d7cc33bc.th"),
    "48khz": (48_000, 2, 150, (3.0, 6.0, 12.0, 24.0), "encodec_48khz-7e698e3e.th"),
}

ABOUT = {
    "title": "EnCodec",
    "package": "encodec",
    "version": "0.1.1",
    "imports": ["torch", "encodec"],
    "code_licence": "CC BY-NC 4.0 (release 0.1.1; the repository is MIT since)",
    "weights_licence": "CC BY-NC 4.0 as release 0.1.1; none of their own stated",
    "weights_source": "dl.fbaipublicfiles.com/encodec/v0, kept by torch.hub",
    "install": "pip install encodec==0.1.1",
    "settings": {"model": "24khz", "bandwidth": 1.5},
    "notes": "no entropy coding by the language model; 48 kHz: stereo, mono duplicated and averaged",
}


def describe(settings):
    """Nominal: codebooks x 10 bits x frame rate, without the scales and the 1 % overlap of the 48 kHz model."""
    if settings["model"] not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, got {settings['model']!r}")
    rate, channels, frames, bandwidths, _ = MODELS[settings["model"]]
    if settings["bandwidth"] not in bandwidths:
        raise ValueError(
            f"bandwidth must be one of {', '.join(map(str, bandwidths))} kbps for {settings['model']}, "
            f"got {settings['bandwidth']!r}"
        )
    codebooks = int(1000 * settings["bandwidth"] // (frames * BITS))
    return {
        "native_rate": rate,
        "channels": channels,
        "frame_rate": float(frames),
        "codebooks": codebooks,
        "nominal_bits_per_second": float(codebooks * BITS * frames),
        "deterministic": True,
    }


def find_weights(settings, given):
    """The file that torch.hub keeps, or the one that was given."""
    home = os.environ.get("TORCH_HOME") or os.path.join(os.path.expanduser("~"), ".cache", "torch")
    path = given or os.path.join(home, "hub", "checkpoints", MODELS[settings["model"]][-1])
    return [path] if os.path.isfile(path) else None


def load(settings, weights, device):
    """The network, and the function that codes one clip."""
    import numpy as np
    import torch
    from encodec import EncodecModel

    rate, channels, _, _, _ = MODELS[settings["model"]]
    torch.manual_seed(0)
    make = EncodecModel.encodec_model_24khz if settings["model"] == "24khz" else EncodecModel.encodec_model_48khz
    model = make(pretrained=False)
    if weights is not None:
        model.load_state_dict(torch.load(weights[0], map_location="cpu", weights_only=True))
    else:
        for name, buffer in model.named_buffers():
            if name.endswith("_codebook.embed"):  # zeros until trained: every code would be 0
                buffer.normal_()
    model = model.to(device).eval()
    model.set_target_bandwidth(settings["bandwidth"])

    @torch.inference_mode()
    def code(audio, request):
        wave = torch.from_numpy(audio).to(device).expand(1, channels, -1)
        frames = model.encode(wave)
        decoded = model.decode(frames)[0].mean(0)
        codes = np.concatenate([codes[0].cpu().numpy() for codes, _ in frames], axis=-1)
        payload = {"codes": (codes, BITS)}
        if frames[0][1] is not None:
            scales = np.concatenate([scale.cpu().numpy().ravel() for _, scale in frames])
            payload["scales"] = (scales.astype("<f4").view(np.uint32), SCALE_BITS)
        return {"audio": decoded.cpu().numpy(), "payload": payload}

    return code
