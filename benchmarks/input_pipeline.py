"""Does the loader keep up? Clips a second of the Grain stream beside sequential soundfile reading of the same sounds.

    python benchmarks/input_pipeline.py SHARDS FOLDER_OF_SOUNDS

Prints one JSON line: medians over the repetitions, paired in one run, and their ratio.
"""

import json
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import soundfile

from data_pipeline.loader import Source, audio_batches

BATCH, BATCHES, REPETITIONS, SAMPLES = 16, 20, 5, 240_000


def stream_rate(shards: str, seed: int) -> float:
    """Clips a second of `audio_batches`, after the first batch."""
    with audio_batches([Source(shards)], batch_size=BATCH, samples=SAMPLES, seed=seed) as batches:
        next(batches)
        began = time.perf_counter()
        for _ in range(BATCHES):
            next(batches)
        return BATCH * BATCHES / (time.perf_counter() - began)


def sequential_rate(files: list[Path], seed: int) -> float:
    """Clips a second of reading whole files one after the other and cutting five seconds."""
    rng = np.random.default_rng(seed)
    began = time.perf_counter()
    for file in rng.choice(np.asarray(files, object), BATCH * BATCHES):
        audio, _ = soundfile.read(file, dtype="float32")
        clip = np.zeros(SAMPLES, np.float32)
        clip[: min(len(audio), SAMPLES)] = audio[:SAMPLES]
    return BATCH * BATCHES / (time.perf_counter() - began)


def main(shards: str, folder: str) -> None:
    files = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in (".flac", ".wav", ".ogg"))
    pairs = [(stream_rate(shards, i), sequential_rate(files, i)) for i in range(REPETITIONS)]
    ours, theirs = (median(column) for column in zip(*pairs, strict=True))
    ratio = median(a / b for a, b in pairs)
    print(
        json.dumps(
            {"stream_clips_per_s": round(ours), "soundfile_clips_per_s": round(theirs), "ratio": round(ratio, 2)}
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:3])
