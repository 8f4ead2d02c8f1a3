"""A child process that trains the toy stage: `python toy_run.py FOLDER STEPS [resume] [pause] [limit]`."""

import resource
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from train.test_loop import go  # noqa: E402
from train.toy_stage import batches  # noqa: E402


def slowly(step):
    for batch in batches(step):
        time.sleep(0.05)
        yield batch


if __name__ == "__main__":
    folder, steps, *words = sys.argv[1:]
    if "limit" in words:
        # A disk that takes no more: writes past this size fail, as they do on a full one.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
    go(
        Path(folder), int(steps), resume="resume" in words, draw=slowly if "pause" in words else batches,
        validate_every=0, preview_every=0, save_every=2,
    )  # fmt: skip
