"""Small sounds and shards, made once a session."""

import numpy as np
import pytest
import soundfile

from data_pipeline import ingest

RATE = 48_000


def tone(seconds, rate=RATE, frequency=440.0, level=0.4):
    time = np.arange(round(seconds * rate)) / rate
    return (level * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


@pytest.fixture(scope="session")
def sounds(tmp_path_factory):
    """A folder with 12 short sounds and one of 1.5 s, each of its own pitch, in train/ and val/."""
    root = tmp_path_factory.mktemp("effects")
    for split, count in (("train", 9), ("val", 3)):
        (root / split).mkdir()
        for number in range(count):
            pitch = 200.0 + 50 * number + (1000 if split == "val" else 0)
            soundfile.write(root / split / f"beep_{number}.wav", tone(0.2 + 0.02 * number, frequency=pitch), RATE)
    soundfile.write(root / "train" / "long_siren.flac", tone(1.5, frequency=333.0), RATE)
    lines = ["path,caption,licence,category"]
    lines += [f"train/beep_{number}.wav,beep number {number},CC0,beeps" for number in range(9)]
    (root / "captions.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="session")
def shards(sounds, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards")
    ingest.prepare([sounds], out, shard_bytes=120_000)
    return out
