"""Independent tasks over processes, one BLAS thread each: two cores do two clips at a time, not one product together."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

# A worker measures arrays: it needs no accelerator and must not take one from the parent.
_WORKER = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}


def in_order(function: Callable[[Any], Any], tasks: Iterable[Any], workers: int) -> Iterator[Any]:
    """`map(function, tasks)`, over processes when there are several workers.

    Args:
      function: of a module's own level, as are the tasks' types: both travel to other processes.
      tasks: drawn as they are needed; few are in flight at a time.
      workers: processes, which take seconds to start; 1 stays in this one.

    Raises:
      ValueError: when a process died, besides what `function` raises.
    """
    if workers <= 1:
        yield from map(function, tasks)
        return
    context = multiprocessing.get_context("spawn")
    with _environment(_WORKER), concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        waiting: collections.deque = collections.deque()
        try:
            for task in tasks:
                waiting.append(pool.submit(function, task))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except concurrent.futures.BrokenExecutor as error:
            raise ValueError(
                "a worker process died, perhaps of memory: run again with --workers 1, what was measured is kept"
            ) from error
        finally:
            for future in waiting:
                future.cancel()


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables that processes started inside inherit."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
