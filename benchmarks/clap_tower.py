"""How fast is CLAP's audio tower? HTSAT-tiny in full size on clips of 5 s, beside Hugging Face's, two threads each.

    python -m venv peers
    peers/bin/pip install torch==2.13.0 transformers==5.23.0
    python benchmarks/clap_tower.py --peer-python peers/bin/python

Both sides run the tower and its projection on the same log-mel features (5 s repeated to the 10 s that the public models
take) with the same random weights, in float32; the run fails if the embeddings differ.

Prints one JSON line: median seconds of a batch, processor seconds of the same calls, and how many times as fast we are
(medians over the repetitions of the ratio within each). Processor seconds tell more on a busy machine, but count threads that
spin while they wait.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from pairing import THREADS, Side, alternate, median_ratio, rounded, run, serve

LARGEST_DIFFERENCE = 1e-4
SPREAD = 0.02


def ours(weights: str, batch: int) -> None:
    import jax
    import jax.numpy as jnp
    import numpy as np
    from safetensors.numpy import load_file

    from spresso_jax.clap.model import Clap
    from spresso_jax.interop.clap_huggingface import StateDict, audio_tower, clap_config

    config, tensors = clap_config({"audio_config": {}, "text_config": {}}), load_file(weights)
    state = StateDict(tensors)
    projection = {f"fc{i}": state.dense(f"audio_projection.linear{i}") for i in (1, 2)}
    params = {"audio_tower": audio_tower(state, config), "audio_projection": projection}
    params = jax.tree.map(jnp.asarray, params | {"audio_log_scale": 0.0, "text_log_scale": 0.0})
    features = jnp.asarray(tensors["features"][:, 0])
    module = Clap(**config)
    encode = jax.jit(lambda params, features: module.apply({"params": params}, features, method="encode_features"))
    expected = tensors["embeddings"] / np.linalg.norm(tensors["embeddings"], axis=1, keepdims=True)
    difference = float(np.abs(np.asarray(encode(params, features)) - expected).max())
    assert difference < LARGEST_DIFFERENCE, f"embeddings differ by {difference}"
    facts = {"versions": {"jax": jax.__version__}, "difference": difference}
    serve(facts, {"tower": timed(lambda: encode(params, features).block_until_ready())})


def theirs(weights: str, batch: int) -> None:
    import torch
    import transformers
    from safetensors.torch import save_file

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    model = transformers.ClapAudioModelWithProjection(transformers.ClapAudioConfig()).eval()
    with torch.inference_mode():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.fill_(400.0)
            elif name.endswith("running_mean"):
                tensor.fill_(-30.0)
            elif tensor.is_floating_point():
                tensor.add_(SPREAD * torch.randn_like(tensor))
        features = -30.0 + 20.0 * torch.randn(batch, 1, 1001, 64)
        encode = lambda: model(input_features=features).audio_embeds  # noqa: E731
        state = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
        save_file({**state, "features": features, "embeddings": encode()}, weights)
        facts = {"versions": {"torch": torch.__version__, "transformers": transformers.__version__}}
        serve(facts, {"tower": timed(encode)})


def timed(call: Callable[[], Any]) -> Callable[[], dict[str, float]]:
    """Adds the processor time of a call to what the side answers."""

    def measured() -> dict[str, float]:
        began = time.process_time()
        call()
        return {"processor_seconds": time.process_time() - began}

    return measured


class Recorded(Side):
    """A side that keeps the processor seconds of its answers."""

    def __init__(self, *arguments: Any, **settings: Any):
        super().__init__(*arguments, **settings)
        self.processor: list[float] = []

    def ask(self, run: str) -> dict[str, Any]:
        answer = super().ask(run)
        self.processor.append(answer["processor_seconds"])
        return answer


def compare(peer_python: str, repetitions: int, batch: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        weights = str(Path(folder) / "weights.safetensors")
        peer = Recorded(peer_python, __file__, "theirs", weights=weights, batch=batch)
        own = Recorded(sys.executable, __file__, "ours", weights=weights, batch=batch)
    seconds = alternate({side.name: (side, "tower") for side in (own, peer)}, repetitions)
    own.close()
    peer.close()
    return {
        "batch": batch,
        "seconds": {name: rounded(median(values)) for name, values in seconds.items()},
        "processor_seconds": {side.name: rounded(median(side.processor)) for side in (own, peer)},
        "times_huggingface": median_ratio(seconds["theirs"], seconds["ours"]),
        "times_huggingface_processor": median_ratio(peer.processor, own.processor),
        "difference": rounded(own.facts["difference"], 2),
        "versions": own.facts["versions"] | peer.facts["versions"],
    }


if __name__ == "__main__":
    run(__file__, compare, {"ours": ours, "theirs": theirs}, {"batch": 8})
