"""SemantiCodec: two tokens a frame at 16 kHz, semantic (log2 V bits) and acoustic (13 bits), decoded by diffusion.

The package pads to whole windows of 10.24 s and keeps one patch of 0.16 s more than the clip fills, so the real count
lies above the nominal (rate / 2)(log2 V + 13) bit/s: 1.434 instead of 1.400 kbps for 5 s. Its output follows a
normalised mel spectrogram: compare with measures that do not see the level.
"""

from __future__ import annotations

import glob
import math
import os

RATE, ACOUSTIC_BITS = 16_000, 13
VOCABULARIES, TOKEN_RATES = (4096, 8192, 16384, 32768), (25, 50, 100)
REPOSITORY = "models--haoheliu--SemantiCodec"

ABOUT = {
    "title": "SemantiCodec",
    "package": "semanticodec",
    "version": "0.0.1",
    "imports": ["torch", "semanticodec"],
    "code_licence": "MIT",
    "weights_licence": "see the model page of haoheliu/SemantiCodec",
    "weights_source": "Hugging Face haoheliu/SemantiCodec",
    "install": "pip install git+https://github.com/haoheliu/SemantiCodec-inference vector-quantize-pytorch==1.14.24 && "
    "huggingface-cli download haoheliu/SemantiCodec",
    "settings": {"token_rate": 100, "semantic_vocab_size": 32768, "steps": 50, "guidance": 2.0},
    "notes": "level follows a mel normalisation: use scale-invariant measures",
}


def describe(settings):
    """Nominal: (token_rate / 2)(log2 V + 13) bit/s; 1.40 and 0.3125 kbps in the paper's tables."""
    if settings["token_rate"] not in TOKEN_RATES:
        raise ValueError(f"token_rate must be one of 25, 50, 100, got {settings['token_rate']!r}")
    if settings["semantic_vocab_size"] not in VOCABULARIES:
        raise ValueError(
            f"semantic_vocab_size must be one of {', '.join(map(str, VOCABULARIES))}, "
            f"got {settings['semantic_vocab_size']!r}"
        )
    steps = settings["steps"]  # the package's grid runs past its 1000 noise levels for others
    if not isinstance(steps, int) or not 1 <= steps < 1000 or 1000 % steps:
        raise ValueError(f"steps must divide 1000 and be under it, got {steps!r}")
    frames = settings["token_rate"] / 2
    return {
        "native_rate": RATE,
        "channels": 1,
        "frame_rate": frames,
        "codebooks": 2,
        "nominal_bits_per_second": frames * (math.log2(settings["semantic_vocab_size"]) + ACOUSTIC_BITS),
        "deterministic": False,
    }


def find_weights(settings, given):
    """Encoder, decoder and semantic codebook, laid out as in the Hugging Face repository."""
    home = os.environ.get("HF_HOME") or os.path.join(os.path.expanduser("~"), ".cache", "huggingface")
    roots = [given] if given else sorted(glob.glob(os.path.join(home, "hub", REPOSITORY, "snapshots", "*")))
    from semanticodec.config import get_config

    _, folder, _, _, codebook = get_config(settings["token_rate"], settings["semantic_vocab_size"])
    for root in roots:
        files = [os.path.join(root, folder, name) for name in ("encoder.ckpt", "decoder.ckpt")]
        files.append(os.path.join(root, codebook))
        if all(os.path.isfile(path) for path in files):
            return files
    return None


def load(settings, weights, device):
    """The networks, and the function that codes one clip."""
    import numpy as np
    import torch
    import torchaudio
    from semanticodec.config import get_config
    from semanticodec.main import SemantiCodec
    from semanticodec.modules.decoder.latent_diffusion.util import instantiate_from_config
    from semanticodec.modules.encoder.encoder import AudioMAEConditionQuantResEncoder

    torch.manual_seed(0)
    rate, vocabulary = settings["token_rate"], settings["semantic_vocab_size"]
    config, _, width, layers, _ = get_config(rate, vocabulary)
    codec = SemantiCodec.__new__(SemantiCodec)  # its constructor downloads, and takes a GPU by itself
    torch.nn.Module.__init__(codec)
    codec.token_rate, codec.stack_factor_K = rate, 100 / rate
    codec.ddim_sample_step, codec.cfg_scale = settings["steps"], settings["guidance"]
    codec.device = torch.device(device)
    codebook = weights[2] if weights else "random_codebook.npy"
    if weights is None:
        np.save(codebook, np.random.default_rng(0).standard_normal((vocabulary, width), np.float32))
    codec.encoder = AudioMAEConditionQuantResEncoder(
        feature_dimension=width, lstm_layer=layers, centroid_npy_path=codebook
    )
    codec.decoder = instantiate_from_config(config["model"])
    if weights is not None:
        for module, path in ((codec.encoder, weights[0]), (codec.decoder, weights[1])):
            module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    codec = codec.to(device).eval()
    # The codebook itself says how many semantic tokens there are, whatever its file is called.
    semantic_bits = math.ceil(math.log2(len(codec.encoder.centroid_npy)))

    @torch.inference_mode()
    def code(audio, request):
        torchaudio.load = lambda path: (torch.from_numpy(audio)[None], RATE)  # takes a path; no decoder package needed
        torch.manual_seed(request["seed"])
        tokens = codec.encode(request["input"])
        decoded = np.asarray(codec.decode(tokens), np.float32).reshape(-1)
        sent = tokens[0].cpu().numpy()
        payload = {"semantic": (sent[:, 0], semantic_bits), "acoustic": (sent[:, 1], ACOUSTIC_BITS)}
        return {"audio": decoded, "payload": payload}

    return code
