"""The child's side of a peer: a program that another Python runs, `python child.py PEER_FILE SETTINGS`.

It needs numpy and what the peer needs, not this project, and runs on Python 3.8 and later. It answers with one line of
JSON when the peer is loaded, and with one more for every line of JSON on its standard input; what packages print goes to
standard error. `process.py` is the parent's side and documents both kinds of lines.

A peer file holds:
  ABOUT              dict: title, package, version, imports, code_licence, weights_licence, weights_source, install,
                     settings (name -> default), notes
  describe(settings) dict: native_rate, channels, frame_rate, nominal_bits_per_second, deterministic, ...; ValueError for
                     settings that the peer does not have. Called in the parent's process too, so it imports nothing.
  version()          text, for peers that are programs; LookupError when the program is missing
  find_weights(settings, given)  files that hold the weights, None where they are not; missing in peers without weights
  load(settings, weights, device)  -> code; `weights` None means an untrained network of the real architecture
  code(audio, request)  audio [S] float32 at native_rate -> dict:
      audio    [S' >= S + delay] float32, or None when the file request["output"] was written already
      payload  name -> (integer array, bits a symbol), everything a receiver needs; {} for peers that send no bits
      container_bits  bits of a file format around the payload (optional)
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose files carry the names of the packages that they drive

import hashlib
import importlib
import importlib.util
import json
import os
import platform
import queue
import struct
import threading

import numpy as np

FLOAT_FORMAT = 3
BLOCK = 2**20


def main(peer_file: str, settings_text: str) -> None:
    """Loads the peer, says so, then codes what it is asked for until standard input ends, in the middle of a clip too."""
    to_parent = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    requests: queue.Queue = queue.Queue()
    threading.Thread(target=_receive, args=(requests,), daemon=True).start()

    def say(answer: dict) -> None:
        to_parent.write(json.dumps(answer) + "\n")
        to_parent.flush()

    try:
        asked = json.loads(settings_text)
        peer = _module(peer_file)
        code, answer = prepare(peer, asked)
    except Exception as error:  # whatever a package raises is told to the parent in one sentence
        code, answer = None, {"status": "failed", "detail": _sentence(error)}
    say(answer)
    if code is None:
        return
    while True:
        line = requests.get()
        try:
            say(answer_request(code, json.loads(line)))
        except Exception as error:
            say({"status": "failed", "detail": _sentence(error)})


def prepare(peer, asked: dict):
    """(code, first answer): packages, then weights, then the network; code is None where one of them is missing."""
    about, settings = peer.ABOUT, asked["settings"]
    for name in about.get("imports", ()):
        try:
            importlib.import_module(name)
        except Exception as error:
            return None, {"status": "package missing", "detail": f"cannot import {name} ({_sentence(error)})"}
    try:
        version = peer.version() if hasattr(peer, "version") else _installed(about["package"])
    except LookupError as error:
        return None, {"status": "package missing", "detail": str(error)}
    files = []
    random_weights = bool(asked["random_weights"]) and hasattr(peer, "find_weights")
    if hasattr(peer, "find_weights") and not random_weights:
        files = peer.find_weights(settings, asked["weights"])
        if not files:
            where = asked["weights"] or "the package's cache"
            return None, {"status": "weights unavailable", "detail": f"not in {where}; they come from {_source(about)}"}
    code = peer.load(settings, None if random_weights else files, asked["device"])
    facts = {
        **{key: about[key] for key in ("title", "package", "code_licence", "weights_licence", "weights_source")},
        **peer.describe(settings),
        "version": version,
        "weights": "random" if random_weights else {os.path.basename(str(path)): _sha256(path) for path in files},
        "python": platform.python_version(),
        "notes": about.get("notes", ""),
    }
    return code, {"status": "ready", "facts": facts}


def answer_request(code, request: dict) -> dict:
    """Codes one file; the symbols go to files beside the output, so that the parent counts them itself."""
    made = code(read_wav(request["input"]), request)
    if made["audio"] is not None:
        write_wav(request["output"], np.asarray(made["audio"], np.float32), request["rate"])
    payload, bits = {}, 0
    for name, (symbols, width) in made["payload"].items():
        path = request["payload"] + "." + name + ".npy"
        symbols = np.ascontiguousarray(symbols)
        np.save(path, symbols)
        payload[name] = [path, width]
        bits += symbols.size * width
    return {
        "status": "coded",
        "payload": payload,
        "payload_bits": made.get("payload_bits", bits),
        "container_bits": made.get("container_bits"),
    }


def read_wav(path: str) -> np.ndarray:
    """[S] float32 of a mono 32-bit float wav."""
    with open(path, "rb") as file:
        data = file.read()
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise ValueError(path + " is no wav file")
    position, kind = 12, None
    while position + 8 <= len(data):
        name, size = data[position : position + 4], struct.unpack("<I", data[position + 4 : position + 8])[0]
        body = data[position + 8 : position + 8 + size]
        if name == b"fmt ":
            kind = struct.unpack("<HHIIHH", body[:16])
        elif name == b"data":
            if kind is None or (kind[0], kind[1], kind[5]) != (FLOAT_FORMAT, 1, 32):
                raise ValueError(path + " is not mono 32-bit float")
            return np.frombuffer(body, "<f4").astype(np.float32)
        position += 8 + size + size % 2
    raise ValueError(path + " holds no samples")


def write_wav(path: str, audio: np.ndarray, rate: int) -> None:
    """Mono 32-bit float wav of [S]."""
    if audio.ndim != 1:
        raise ValueError(f"the peer gave audio of shape {audio.shape}, not one channel")
    body = audio.astype("<f4").tobytes()
    form = struct.pack("<HHIIHH", FLOAT_FORMAT, 1, int(rate), int(rate) * 4, 4, 32)
    with open(path, "wb") as file:
        file.write(b"RIFF" + struct.pack("<I", 36 + len(body)) + b"WAVEfmt " + struct.pack("<I", 16) + form)
        file.write(b"data" + struct.pack("<I", len(body)) + body)


def _receive(requests: queue.Queue) -> None:
    """Passes lines on; when they end, the parent has ended too, however that came, and nobody waits for this process."""
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)


def _module(path: str):
    spec = importlib.util.spec_from_file_location("spresso_peer", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _installed(package: str) -> str:
    """Version of an installed distribution; PackageNotFoundError is turned into LookupError."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError as error:
        raise LookupError(f"{package} is not installed") from error


def _sha256(path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while True:
            block = file.read(BLOCK)
            if not block:
                return digest.hexdigest()
            digest.update(block)


def _source(about: dict) -> str:
    return f"{about['weights_source']} ({about['weights_licence']})"


def _sentence(error: BaseException) -> str:
    """Type and first words of an error, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300].rstrip(": ")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
