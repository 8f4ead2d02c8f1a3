"""The parent's side of one peer: what is run, and the child process that runs it, with its limits.

One line of JSON goes each way per file:

  first answer   {"status": "ready", "facts": {...}}, or "package missing", "weights unavailable", "failed" with "detail"
  request        {"input": wav, "output": wav, "payload": prefix, "rate": Hz, "seed": int}   mono 32-bit float wav
  answer         {"status": "coded", "payload": {name: [npy, bits a symbol]}, "payload_bits": int, "container_bits": int}

The child's own words go to a log. Whatever it does instead of answering is one sentence.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHILD = Path(__file__).with_name("child.py")
LOAD_SECONDS = 600.0
CLIP_SECONDS = 600.0
END_SECONDS = 5.0
MAX_ANSWER = 2**20
# Variables of our Python that would lead another one astray; the others keep packages from downloading or unpickling code.
UNSET = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")
SET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
    "PYTHONWARNINGS": "ignore",
}


class PeerError(ValueError):
    """A peer that could not do what it was asked; one sentence that names it."""


@dataclass(frozen=True)
class Peer:
    """One peer at one operating point.

    Attributes:
      name: one of `adapter.NAMES`, or any name with a `file` of its own.
      settings: of the peer, complete.
      python: path of the Python that runs it.
      weights: file or folder, instead of where the package keeps them.
      random_weights: an untrained network: checks lengths and bits, its sounds and scores mean nothing.
      seed: of generative decoders; clip i gets seed + i.
      device: "cpu", "cuda", ...
      load_seconds, clip_seconds: time limits of loading and of one clip.
      file: the peer's file.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    python: str = sys.executable
    weights: str | None = None
    random_weights: bool = False
    seed: int = 0
    device: str = "cpu"
    load_seconds: float = LOAD_SECONDS
    clip_seconds: float = CLIP_SECONDS
    file: Path | None = None

    @property
    def key(self) -> str:
        """Name and settings, as a folder name: dac-n_quantizers-2."""
        told = [f"{name}-{value}" for name, value in self.settings.items()]
        return "-".join([self.name, *told, *(["random-weights"] if self.random_weights else [])])

    @property
    def path(self) -> Path:
        """File that the child loads."""
        return self.file or CHILD.with_name(f"{self.name}.py")


class Child:
    """The running child of one peer; a context manager, which ends it and whatever it started.

    Attributes:
      status: "ready", "weights unavailable" or "package missing".
      facts: about the peer and its weights, when ready.
      detail: why not, otherwise.
    """

    def __init__(self, peer: Peer, folder: Path, log: Path):
        """Starts the child and waits until it is loaded.

        Args:
          peer: what to run.
          folder: its working folder.
          log: file that gets its standard error.

        Raises:
          PeerError: if it does not start, ends, exceeds its time or says something else than it should.
        """
        self.peer, self.log, self._read = peer, log, b""
        settings = {
            "settings": dict(peer.settings),
            "weights": os.path.abspath(peer.weights) if peer.weights else None,
            "random_weights": peer.random_weights,
            "device": peer.device,
        }
        environment = {key: value for key, value in os.environ.items() if key not in UNSET} | SET
        command = [peer.python, str(CHILD), str(peer.path.resolve()), json.dumps(settings)]
        pipe = subprocess.PIPE
        with open(log, "ab") as words:
            try:
                self.process = subprocess.Popen(
                    command, stdin=pipe, stdout=pipe, stderr=words, cwd=folder, env=environment, start_new_session=True
                )
            except OSError as error:
                raise PeerError(
                    f"{peer.name}: {peer.python} cannot be started ({error.strerror}): give the path of its Python"
                ) from error
        try:
            answer = self._answer("loading", peer.load_seconds)
            self.status, self.detail = answer.get("status"), str(answer.get("detail", ""))
            if self.status == "failed":
                raise PeerError(f"{peer.name} failed while loading: {self.detail}; more in {log}")
            if self.status not in ("ready", "weights unavailable", "package missing"):
                raise PeerError(f"{peer.name} answered with an unknown status {self.status!r} while loading; see {log}")
            self.facts = _checked_facts(peer, answer.get("facts")) if self.status == "ready" else {}
        except BaseException:
            self.close()
            raise

    def code(self, name: str, request: Mapping[str, Any]) -> dict:
        """One request and its answer.

        Raises:
          PeerError: if the child failed, ended, exceeded its time or answered with something else.
        """
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            pass  # it has ended, which reading its answer tells
        answer = self._answer(f"coding {name!r}", self.peer.clip_seconds)
        if answer.get("status") != "coded":
            raise PeerError(f"{self.peer.name} failed on {name!r}: {answer.get('detail', answer)}; more in {self.log}")
        return answer

    def close(self) -> None:
        """Lets the child end, and ends it with all that it started when it does not."""
        try:
            self.process.stdin.close()
        except OSError:
            pass
        try:
            self.process.wait(END_SECONDS if self.process.returncode is None else 0)
        except subprocess.TimeoutExpired:
            pass
        self._kill()
        self.process.stdout.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self, doing: str, seconds: float) -> dict:
        line = self._line(doing, seconds)
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            self._kill()
            told = line[:60].decode(errors="replace").strip()
            raise PeerError(f"{self.peer.name} printed {told!r} instead of an answer while {doing}; see {self.log}")
        return answer

    def _line(self, doing: str, seconds: float) -> bytes:
        end = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._read:
                left = end - time.monotonic()
                if left <= 0 or not selector.select(left):
                    self._kill()
                    raise PeerError(
                        f"{self.peer.name} took longer than {seconds:g} s while {doing}: raise its time limit, "
                        f"or see {self.log}"
                    )
                piece = os.read(self.process.stdout.fileno(), 2**16)
                if not piece:
                    status = self.process.wait()
                    raise PeerError(
                        f"{self.peer.name} ended with status {status} while {doing}{self._last_words()}; see {self.log}"
                    )
                self._read += piece
                if len(self._read) > MAX_ANSWER:
                    self._kill()
                    raise PeerError(
                        f"{self.peer.name} printed more than {MAX_ANSWER} bytes instead of an answer while {doing}"
                    )
        line, self._read = self._read.split(b"\n", 1)
        return line

    def _last_words(self) -> str:
        with open(self.log, "rb") as file:
            file.seek(max(0, self.log.stat().st_size - 2000))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        return f", its last words {lines[-1][:200]!r}" if lines else ""

    def _kill(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


def _checked_facts(peer: Peer, facts: Any) -> dict:
    """Facts of a child, with the known delay filled in.

    Raises:
      PeerError: naming what is missing or impossible.
    """
    wanted = ("title", "package", "version", "code_licence", "weights_licence", "weights_source", "weights")
    wanted += ("native_rate", "channels", "frame_rate", "nominal_bits_per_second", "deterministic")
    missing = [name for name in wanted if name not in facts] if isinstance(facts, dict) else ["facts"]
    if missing:
        raise PeerError(f"{peer.name} does not say its {missing[0]}: its file must give it in ABOUT or describe")
    rate, delay = facts["native_rate"], facts.get("delay", 0)
    if not isinstance(rate, int) or not 1_000 <= rate <= 192_000 or not isinstance(delay, int) or not 0 <= delay < rate:
        raise PeerError(f"{peer.name} gives {rate!r} Hz and a delay of {delay!r} samples, which cannot be")
    if peer.random_weights != (facts["weights"] == "random"):
        raise PeerError(f"{peer.name} says its weights are {facts['weights']!r}, not what was asked for")
    return {**facts, "delay": delay}
