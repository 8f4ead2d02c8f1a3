"""S-PRESSO in JAX: a diffusion-autoencoder codec for sound effects at 0.1 to 1.3 kbit/s.

```
from spresso_jax import Codec, read_audio, write_audio

codec = Codec.load("spresso-nano")
audio, info = read_audio("door.wav", channels="keep")
encoded = codec.encode(audio, 48_000)
write_audio("door.decoded.wav", codec.decode(encoded, seed=0), 48_000)
```

Names are imported on first use: importing the package loads neither JAX nor any model.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"
__all__ = ("Codec", "Generator", "LatentCodec", "__version__", "load_model", "read_audio", "write_audio")

_HOMES = {
    "Codec": "spresso_jax.codec.codec",
    "Generator": "spresso_jax.codec.generator",
    "LatentCodec": "spresso_jax.codec.latent_codec",
    "load_model": "spresso_jax.checkpoints.weights",
    "read_audio": "data_pipeline.audio_files",
    "write_audio": "data_pipeline.audio_files",
}


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
