"""The codec's commands called as a user would, for the tests of `tests/cli`."""

import numpy as np
import soundfile
import typer
from typer.testing import CliRunner

from spresso_jax.cli import codec as commands


def program(*arguments):
    """Runs `spresso ARGUMENTS` in this process; the result has exit_code, stdout and stderr."""
    app = typer.Typer()
    commands.register(app)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def write(path, samples=22_050, rate=44_100, channels=1, seed=0):
    """A file of noise; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).normal(0, 0.1, (samples, channels)), rate)
    return path


def refused(result, message):
    """Asserts one clear sentence on standard error and exit code 2."""
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and message in lines[0], result.stderr
    assert "Traceback" not in result.output
