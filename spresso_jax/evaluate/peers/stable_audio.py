"""The VAE of Stable Audio Open: 64 continuous channels at 21.53 frames a second, stereo at 44.1 kHz.

It sends no bits. `encode` of the tools draws from the posterior; here it is the mean, so the peer is deterministic. The
mono clip goes in twice, the output is the mean of both channels.
"""

from __future__ import annotations

import glob
import os

RATE, HOP, DIMENSION = 44_100, 2048, 64
REPOSITORY = "models--stabilityai--stable-audio-open-1.0"

ABOUT = {
    "title": "Stable Audio Open VAE",
    "package": "diffusers",
    "version": "0.30 or later",
    "imports": ["torch", "diffusers"],
    "code_licence": "Apache-2.0 (diffusers)",
    "weights_licence": "Stability AI Community License, gated",
    "weights_source": "Hugging Face stabilityai/stable-audio-open-1.0, folder vae",
    "install": "pip install torch diffusers && huggingface-cli download stabilityai/stable-audio-open-1.0 "
    "--include 'vae/*'  (after accepting its licence)",
    "settings": {},
    "notes": "mean of the posterior; mono duplicated, output averaged",
}


def describe(settings):
    """Continuous latents: no bits."""
    return {
        "native_rate": RATE,
        "channels": 2,
        "frame_rate": RATE / HOP,
        "dimension": DIMENSION,
        "nominal_bits_per_second": None,
        "deterministic": True,
    }


def find_weights(settings, given):
    """config.json and the safetensors file of the folder that was given, or of Hugging Face's cache."""
    home = os.environ.get("HF_HOME") or os.path.join(os.path.expanduser("~"), ".cache", "huggingface")
    folders = [given] if given else sorted(glob.glob(os.path.join(home, "hub", REPOSITORY, "snapshots", "*", "vae")))
    for folder in folders:
        files = [os.path.join(folder, name) for name in ("config.json", "diffusion_pytorch_model.safetensors")]
        if all(os.path.isfile(path) for path in files):
            return files
    return None


def load(settings, weights, device):
    """The network, and the function that codes one clip."""
    import torch
    from diffusers import AutoencoderOobleck

    torch.manual_seed(0)
    if weights is None:
        model = AutoencoderOobleck()
    else:
        model = AutoencoderOobleck.from_pretrained(
            os.path.dirname(weights[0]), local_files_only=True, use_safetensors=True
        )
    model = model.to(device).eval()

    @torch.inference_mode()
    def code(audio, request):
        wave = torch.nn.functional.pad(torch.from_numpy(audio), (0, -audio.size % HOP)).to(device)
        latents = model.encode(wave.expand(1, 2, -1)).latent_dist.mode()
        return {"audio": model.decode(latents).sample[0].mean(0).cpu().numpy(), "payload": {}}

    return code
