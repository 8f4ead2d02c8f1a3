"""How long points will take: from points that are done, else from the speed of this machine's matrix products."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spresso_jax.sweeps.collect import SECONDS, point_figures
from spresso_jax.sweeps.folder import DONE, checkpoint_step, state_of
from spresso_jax.sweeps.grid import SweepError

# In a process of its own: one that has touched an accelerator keeps its memory from the trainings that follow.
_MEASURE = """
import json, sys, jax
from spresso_jax.train.estimate import measure_rate
rates = {dtype: measure_rate(dtype) * jax.device_count() for dtype in sys.argv[1:]}
print(json.dumps({"rates": rates, "device": f"{jax.device_count()} {jax.devices()[0].device_kind}"}))
"""


@dataclass(frozen=True)
class Speed:
    """Operations a second.

    Attributes:
      rates: dtype of the operands -> operations a second.
      source: one sentence for the user: where the numbers come from and what they leave out.
    """

    rates: Mapping[str, float]
    source: str

    def remaining_seconds(self, run: Path, point: Mapping[str, Any]) -> float:
        """Estimated time of the updates that a point of a plan still has to do."""
        if state_of(run) == DONE:
            return 0.0
        left = point["steps"] - checkpoint_step(run)
        return max(0, left) * sum(count / self.rates[dtype] for dtype, count in point["flops"].items())


def speed_of(out: Path, plan: Mapping[str, Any]) -> Speed:
    """From the finished points of a plan if there are any, else measured on this machine."""
    return finished_speed(out, plan) or measured_speed({d for p in plan["points"].values() for d in p["flops"]})


def finished_speed(out: Path, plan: Mapping[str, Any]) -> Speed | None:
    """The median speed of the points that are done, the same for every dtype; None if none tells it."""
    found = []
    for name, point in plan["points"].items():
        seconds = point_figures(out / name, plan["metrics"]).get(SECONDS) if state_of(out / name) == DONE else None
        if seconds:
            found.append(sum(point["flops"].values()) / seconds)
    if not found:
        return None
    rate = statistics.median(found)
    points = "1 finished point" if len(found) == 1 else f"{len(found)} finished points"
    source = f"estimated from the speed of {points}, {rate / 1e9:.3g} GFLOP/s; updates only"
    return Speed({dtype: rate for p in plan["points"].values() for dtype in p["flops"]}, source)


def measured_speed(dtypes: Iterable[str]) -> Speed:
    """The speed of matrix products here, for each dtype.

    Raises:
      SweepError: if the measurement fails, with what it wrote last.
    """
    done = subprocess.run([sys.executable, "-c", _MEASURE, *sorted(dtypes)], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise SweepError(f"the speed of this machine could not be measured: {last}")
    facts = json.loads(done.stdout.strip().splitlines()[-1])
    told = ", ".join(f"{rate / 1e9:.3g} GFLOP/s in {dtype}" for dtype, rate in facts["rates"].items())
    source = (
        f"estimated from matrix products on this machine ({facts['device']}: {told}): a lower bound, which no training"
        " reaches; validation, previews and compilation come on top"
    )
    return Speed(facts["rates"], source)


def clock(seconds: float) -> str:
    """5025 -> "1.4 h": minutes below one hour, seconds below two minutes."""
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
