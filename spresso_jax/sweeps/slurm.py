"""A sweep as a SLURM job array: one line of shell a point, a script that runs the line of its number, one that submits.

Every word is quoted; nothing that the user wrote is read by a shell as anything but a word.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from spresso_jax.sweeps.folder import model_file
from spresso_jax.sweeps.grid import SweepError

_OURS = ("--array", "-a", "--output", "-o", "--error", "-e", "--job-name", "-J", "--dependency", "-d", "--wrap")


def point_line(run: Path, command: Sequence[str]) -> str:
    """Shell line that trains a point unless its model exists by then; started twice, it goes on where the first one was."""
    return f"test -e {shlex.quote(str(model_file(run)))} || exec {shlex.join(command)}"


def write_array(
    folder: Path, name: str, lines: Sequence[str], options: str = "", at_once: int = 4, first: Sequence[str] = ()
) -> list[Path]:
    """Writes the points file, `sweep.sbatch`, `prepare.sbatch` and `submit.sh`, and returns their paths.

    A submitted script is a copy, so its points file must not change under it: that one carries a digest of its contents, and
    a later submission writes another.

    Args:
      folder: where; made if needed. Logs go there too.
      name: of the job.
      lines: one of `point_line` a point.
      options: of sbatch, such as "--partition=gpu --gpus=1 --time=12:00:00".
      at_once: how many points may run at a time.
      first: command of a job that ends before the first point starts: the caches that all points read.

    Raises:
      SweepError: if there is no line, or an option is not one or is one of the array's own.
    """
    words = _options(options)
    if not lines:
        raise SweepError("no point is missing: there is nothing to submit")
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "logs").mkdir(exist_ok=True)
    content = "".join(f"{line}\n" for line in lines)
    if content.count("\n") != len(lines):
        raise SweepError("a path or value of the sweep holds a line break, which a points file cannot")
    points = folder / f"points-{hashlib.sha256(content.encode()).hexdigest()[:8]}.txt"
    points.write_text(content, encoding="utf-8")
    title = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)
    array = [f"--array=0-{len(lines) - 1}%{at_once}", f"--output={_log(folder)}/%A_%a.log", *_TERMINATION, *words]
    body = (
        'if [ -z "${SLURM_ARRAY_TASK_ID:-}" ]; then echo "submit this script with sbatch: it runs one line of'
        ' the points file" >&2; exit 2; fi\n'
        f'line=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {shlex.quote(str(points))})\n'
        'if [ -z "$line" ]; then echo "no point has the number $SLURM_ARRAY_TASK_ID" >&2; exit 2; fi\n'
        'if command -v srun >/dev/null; then exec srun bash -c "$line"; else exec bash -c "$line"; fi\n'
    )
    written = [points, folder / "sweep.sbatch"]
    written[1].write_text(_script(title, array, body), encoding="utf-8")
    if first:
        written.append(folder / "prepare.sbatch")
        one = [f"--output={_log(folder)}/%j.log", *words]
        written[2].write_text(_script(f"{title}-prepare", one, f"exec {shlex.join(first)}\n"), encoding="utf-8")
    written.append(folder / "submit.sh")
    array_job = shlex.quote(str(written[1]))
    submit = (
        f"first=$(sbatch --parsable {shlex.quote(str(written[2]))})\n"
        f'sbatch --dependency="afterok:${{first%%;*}}" --kill-on-invalid-dep=yes {array_job}\n'
        if first
        else f"sbatch {array_job}\n"
    )
    written[-1].write_text(f"#!/bin/bash\nset -euo pipefail\n{submit}", encoding="utf-8")
    written[-1].chmod(0o755)
    return written


# Two minutes before the time limit the training is told, and saves; a requeued job goes on from there.
_TERMINATION = ("--signal=TERM@120", "--requeue")


def _script(title: str, options: Sequence[str], body: str) -> str:
    lines = [f"#SBATCH --job-name={title}", *(f"#SBATCH {shlex.quote(option)}" for option in options)]
    return "\n".join(["#!/bin/bash", *lines, "set -euo pipefail", body])


def _log(folder: Path) -> str:
    """The folder of logs, where % would begin one of SLURM's own patterns."""
    return str(folder / "logs").replace("%", "%%")


def _options(text: str) -> list[str]:
    """sbatch options, one a word: `--partition=gpu` or `-pgpu`, not `-p gpu`.

    Raises:
      SweepError: naming the word that is not an option, or is one that the array sets itself.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise SweepError(f"--slurm-options {text!r}: {error}") from error
    for word in words:
        if not re.fullmatch(r"--?[A-Za-z][^\x00-\x1f]*", word):
            raise SweepError(f"--slurm-options: {word!r} is not an option; write each as one word, such as --time=12:00:00")
        if word.partition("=")[0] in _OURS:
            raise SweepError(f"--slurm-options: {word} is set by the sweep itself; see --at-once and --slurm")
    return words
