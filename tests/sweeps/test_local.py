"""Commands one after another: failures do not stop the others, a signal stops all and lets the running one save."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from spresso_jax.sweeps.local import run_all


def python(program, *words):
    return [sys.executable, "-c", program, *map(str, words)]


def test_a_failure_does_not_stop_the_others(tmp_path):
    said = []
    write = "import sys, pathlib; pathlib.Path(sys.argv[1]).touch()"
    outcome = run_all(
        [("a", python("raise SystemExit(3)")), ("b", python(write, tmp_path / "b")), ("c", python("1 / 0"))], said.append
    )
    assert outcome.done == ["b"] and outcome.failed == {"a": 3, "c": 1} and outcome.interrupted is None
    assert (tmp_path / "b").exists() and any("a failed with exit status 3" in text for text in said)


def test_a_command_that_was_asked_to_stop_ends_the_sweep():
    outcome = run_all([("a", python("raise SystemExit(130)")), ("b", python("raise AssertionError"))], lambda text: None)
    assert outcome.interrupted == "a" and not outcome.failed and not outcome.done


SAVES = """
import signal, sys, time
asked = []
signal.signal(signal.SIGINT, lambda *_: asked.append(1))
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
open(sys.argv[1], "w").close()
while not asked:
    time.sleep(0.02)
time.sleep(0.2)
open(sys.argv[2], "w").write(str(len(asked)))
sys.exit(130)
"""
PARENT = """
import sys
from spresso_jax.sweeps.local import run_all
command = [sys.executable, "-c", open(sys.argv[1]).read(), *sys.argv[2:]]
print(run_all([("a", command), ("b", command)], lambda text: None).interrupted)
"""


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_reaches_the_running_command_once_and_is_waited_for(kill, tmp_path):
    program, started, saved = tmp_path / "saves.py", tmp_path / "started", tmp_path / "saved"
    program.write_text(SAVES)
    parent = subprocess.Popen(
        python(PARENT, program, started, saved), stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    for _ in range(2000):
        if started.exists():
            break
        time.sleep(0.02)
    # As a terminal does it: the whole process group of the parent.
    os.killpg(parent.pid, kill)
    output, _ = parent.communicate(timeout=60)
    assert output.strip() == "a" and saved.read_text() == "1"


def test_outside_the_main_thread_signals_stay_as_they_are():
    before, found = signal.getsignal(signal.SIGINT), []
    thread = threading.Thread(target=lambda: found.append(run_all([("a", python("pass"))], lambda text: None)))
    thread.start()
    thread.join()
    assert found[0].done == ["a"] and signal.getsignal(signal.SIGINT) is before
