"""The model that comes with the package: small enough, whole, and good for a round trip right after install."""

import numpy as np
import pytest

from data_pipeline.synth import synthesise
from spresso_jax.checkpoints.weights import find_model_folder, load_facts
from spresso_jax.codec.codec import Codec

NAME = "spresso-nano"


def test_it_weighs_at_most_12_megabytes_and_names_its_licence_and_data():
    folder = find_model_folder(NAME)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 12_000_000
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "Credits" in card or "credits" in card
    assert load_facts(folder)["licence"]


def test_a_sound_becomes_a_few_dozen_bytes_and_comes_back_at_its_length():
    codec = Codec.load(NAME)
    audio = synthesise(3, seed=11).audio[:48_000]
    encoded = codec.encode(audio, 48_000)
    assert len(bytes(encoded)) < 220
    assert encoded.bitrates()["nominal"] == pytest.approx(1.32)
    decoded = np.asarray(codec.decode(bytes(encoded), seed=1, steps=3))
    assert decoded.reshape(-1).shape == audio.shape and np.isfinite(decoded).all()
    assert np.abs(decoded).max() > 1e-4
