"""Start of a multi-process job; a single process needs nothing and starts nothing."""

from __future__ import annotations

import os

# Variables that only a job of several processes has; jax.distributed finds the rest by itself.
_LAUNCHERS = {
    "SLURM_NTASKS": "SLURM_PROCID",
    "OMPI_COMM_WORLD_SIZE": "OMPI_COMM_WORLD_RANK",
}


def start() -> None:
    """Joins the job's processes, when there are several, before any other use of JAX.

    SLURM and Open MPI are recognised by their variables; elsewhere SPRESSO_COORDINATOR (host:port), SPRESSO_PROCESSES and
    SPRESSO_PROCESS_ID say it.

    Raises:
      ValueError: if only some of the SPRESSO_ variables are set.
    """
    import jax

    names = ("SPRESSO_COORDINATOR", "SPRESSO_PROCESSES", "SPRESSO_PROCESS_ID")
    given = [name for name in names if os.environ.get(name)]
    if given and len(given) < len(names):
        raise ValueError(f"set all of {', '.join(names)} or none; only {', '.join(given)} is set")
    if given:
        jax.distributed.initialize(
            os.environ[names[0]], num_processes=int(os.environ[names[1]]), process_id=int(os.environ[names[2]])
        )
    elif any(int(os.environ.get(size, "1")) > 1 and rank in os.environ for size, rank in _LAUNCHERS.items()):
        jax.distributed.initialize()
