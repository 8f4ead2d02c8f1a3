"""How fast and how large are KAD and FAD? Ours beside kadtk's and fadtk's own functions, on two threads each.

    python -m venv peers
    peers/bin/pip install torch==2.13.0 scipy==1.17.1 numpy==2.3.5 hypy_utils==1.0.29
    peers/bin/pip install --no-deps torchaudio==2.11.0 kadtk==1.1.0 fadtk==1.1.0
    python benchmarks/distribution_distances.py --peer-python peers/bin/python

Both sides get the same float32 rows in memory and return a number: KAD with the bandwidth of the evaluation set (kadtk's
default, float32 there, float64 here and in float32 beside it), FAD by kadtk (float32) and by fadtk (float64, mean and
covariance included). The run fails if the numbers differ. The toolkits' modules for networks and audio files are replaced
by empty ones: they need dozens of packages, and none of what is measured calls them.

Then ours alone on many rows, once, each distance in a process of its own.

Prints one JSON line: median seconds; how many times as fast we are (medians over the repetitions of the ratio within
each); `working_mib`, resident memory at the peak of a call above that before it, the largest of the repetitions; the
numbers; and seconds and peak resident memory, everything included, of the large sets (0 rows leave them out).
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from pairing import (
    THREADS,
    Side,
    alternate,
    forget_peak,
    give_back_freed,
    median_ratio,
    resident_mib,
    rounded,
    run,
    say,
    serve,
)

KAD_TOLERANCE = 2e-4  # absolute, at scale 100: noise of kadtk's float32
FAD_TOLERANCE = {"fadtk": 1e-6, "kadtk": 1e-3}  # relative
MEMORY_REPETITIONS = 5


def ours(sets: str) -> None:
    import numpy as np

    from spresso_jax.evaluate.frechet_distance import frechet_distance

    with np.load(sets) as file:
        x, y = file["x"], file["y"]
    calls = {
        "kad": lambda: _own_kad(x, y, "float64"),
        "kad_float32": lambda: _own_kad(x, y, "float32"),
        "fad": lambda: frechet_distance(x, y),
    }
    _serve(calls, {"numpy": np.__version__})


def theirs(sets: str) -> None:
    import numpy as np
    import torch

    torch.set_num_threads(THREADS)
    kernel, frechet = _toolkit("kadtk", "kad", emb_loader="EmbeddingLoader"), _toolkit("kadtk", "fad")
    fadtk = _toolkit("fadtk", "fad", utils="find_sox_formats")
    with np.load(sets) as file:
        x, y = file["x"], file["y"]
    tensors, none = (torch.from_numpy(x), torch.from_numpy(y)), (None, None)
    statistics = fadtk.calc_embd_statistics
    wide = x.astype(np.float64), y.astype(np.float64)
    calls = {
        "kad": lambda: kernel.calc_kernel_audio_distance(*tensors, none, "cpu").item(),
        "fad_kadtk": lambda: frechet.calc_frechet_distance(*tensors, none, "cpu").item(),
        "fad_fadtk": lambda: float(fadtk.calc_frechet_distance(*statistics(wide[0]), *statistics(wide[1]))),
    }
    from importlib.metadata import version

    _serve(calls, {name: version(name) for name in ("torch", "scipy", "kadtk", "fadtk")})


def large(distance: str, rows: int, width: int) -> None:
    from spresso_jax.evaluate.frechet_distance import frechet_distance

    x, y = _sets(rows, width)
    began = time.perf_counter()
    value = _own_kad(x, y, "float64") if distance == "kad" else frechet_distance(x, y)
    say({"seconds": rounded(time.perf_counter() - began), "peak_mib": round(resident_mib()["peak"]), "value": value})


def _serve(calls: dict[str, Callable[[], float]], versions: dict[str, str]) -> None:
    """Each call is asked for by its name, and its memory by its name and " memory"."""

    def memory(call: Callable[[], float]) -> dict[str, float]:
        give_back_freed()
        forget_peak()
        before = resident_mib()["now"]
        call()
        return {"mib": resident_mib()["peak"] - before}

    values = {name: float(call()) for name, call in calls.items()}
    measured = {f"{name} memory": lambda call=call: memory(call) for name, call in calls.items()}
    serve({"versions": versions, "values": values}, {**calls, **measured})


def _own_kad(x: Any, y: Any, precision: str) -> float:
    from spresso_jax.evaluate.kernel_distance import SCALE, Kernel, kernel_means, median_distance

    median = median_distance(y)
    kernel = Kernel(median.value, precision=precision)
    return SCALE * kernel_means(x, y, kernel, evaluation_squares=median.squares).unbiased


def _toolkit(package: str, module: str, **stand_ins: str) -> Any:
    """One file of an installed toolkit, with empty modules in place of those that load networks and audio."""
    import importlib.util
    import types
    from importlib.metadata import distribution

    if package not in sys.modules:
        sys.modules[package] = types.ModuleType(package)
        sys.modules[package].__path__ = []
    for name, attribute in {"model_loader": "ModelLoader", "emb_loader": "EmbeddingLoader", **stand_ins}.items():
        empty = sys.modules.setdefault(f"{package}.{name}", types.ModuleType(f"{package}.{name}"))
        setattr(empty, attribute, None)
    if package == "fadtk":
        sys.modules["fadtk.utils"].PathLike = str
    path = distribution(package).locate_file(f"{package}/{module}.py")
    spec = importlib.util.spec_from_file_location(f"{package}.{module}", path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def _sets(rows: int, width: int) -> tuple[Any, Any]:
    """Two Gaussian sets with the falling spectrum that embeddings have, float32."""
    import numpy as np

    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((rows, width), np.float32) for _ in range(2))
    x *= np.geomspace(1.0, 0.1, width, dtype=np.float32)
    y *= np.geomspace(1.0, 0.12, width, dtype=np.float32)
    y += np.float32(0.02)
    return x, y


def compare(peer_python: str, repetitions: int, rows: int, width: int, large_rows: int) -> dict[str, Any]:
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        sets = str(Path(folder) / "sets.npz")
        x, y = _sets(rows, width)
        np.savez(sets, x=x, y=y)
        own = Side(sys.executable, __file__, "ours", sets=sets)
        peer = Side(peer_python, __file__, "theirs", sets=sets)
    values, expected = own.facts["values"], peer.facts["values"]
    assert abs(values["kad"] - expected["kad"]) < KAD_TOLERANCE, (values, expected)
    assert abs(values["kad_float32"] - expected["kad"]) < KAD_TOLERANCE, (values, expected)
    for name, tolerance in FAD_TOLERANCE.items():
        assert abs(values["fad"] - expected[f"fad_{name}"]) < tolerance * expected[f"fad_{name}"], (values, expected)
    turns = {f"{side.name} {name}": (side, name) for side in (own, peer) for name in side.facts["values"]}
    seconds = alternate(turns, repetitions)
    memory = {
        label: max(side.ask(f"{name} memory")["mib"] for _ in range(MEMORY_REPETITIONS))
        for label, (side, name) in turns.items()
    }
    own.close()
    peer.close()
    both = {
        "ours": [a + b for a, b in zip(seconds["ours kad"], seconds["ours fad"], strict=True)],
        "theirs": [a + b for a, b in zip(seconds["theirs kad"], seconds["theirs fad_fadtk"], strict=True)],
    }
    result = {
        "rows": rows,
        "width": width,
        "seconds": {label: rounded(median(values)) for label, values in seconds.items()},
        "times_toolkits": {
            "kad + fad": median_ratio(both["theirs"], both["ours"]),
            "kad": median_ratio(seconds["theirs kad"], seconds["ours kad"]),
            "kad, float32": median_ratio(seconds["theirs kad"], seconds["ours kad_float32"]),
            "fad, kadtk": median_ratio(seconds["theirs fad_kadtk"], seconds["ours fad"]),
            "fad, fadtk": median_ratio(seconds["theirs fad_fadtk"], seconds["ours fad"]),
        },
        "working_mib": {label: rounded(value, 3) for label, value in memory.items()},
        "values": values,
        "toolkit_values": expected,
        "versions": own.facts["versions"] | peer.facts["versions"],
    }
    if large_rows:
        result["large"] = {"rows": large_rows}
        for name in ("fad", "kad"):
            side = Side(sys.executable, __file__, "large", distance=name, rows=large_rows, width=width)
            result["large"][name] = side.facts
            side.close()
    return result


if __name__ == "__main__":
    sides = {"ours": ours, "theirs": theirs, "large": large}
    run(__file__, compare, sides, {"rows": 1500, "width": 512, "large_rows": 50_000})
