"""Opus at its lowest bitrate, 6 kbps, by opusenc and opusdec or by ffmpeg's libopus.

Counted are the audio packets in the Ogg pages; the pages' own headers and the two header packets are the container, told
apart. The decoders take off the encoder's delay and cut to the length, as the file says.
"""

from __future__ import annotations

import shutil
import subprocess

RATE, LOWEST, HIGHEST = 48_000, 6, 256

ABOUT = {
    "title": "Opus",
    "package": "opus-tools or ffmpeg",
    "version": "libopus 1.3 or later",
    "imports": [],
    "code_licence": "BSD (libopus, opus-tools); LGPL/GPL (ffmpeg)",
    "weights_licence": "none",
    "weights_source": "none needed",
    "install": "apt-get install opus-tools",
    "settings": {"kbps": 6, "mode": "vbr", "frame_ms": 20},
    "notes": "audio packets counted; Ogg pages and the two header packets are container",
}
MODES = {"vbr": ("--vbr", "on"), "cbr": ("--hard-cbr", "off")}


def describe(settings):
    """6 to 256 kbps, variable (the encoder's default) or constant."""
    kbps = settings["kbps"]
    if not isinstance(kbps, (int, float)) or not LOWEST <= kbps <= HIGHEST:
        raise ValueError(f"kbps must lie within {LOWEST} and {HIGHEST}, got {kbps!r}")
    if settings["mode"] not in MODES:
        raise ValueError(f"mode must be vbr or cbr, got {settings['mode']!r}")
    if settings["frame_ms"] not in (20, 40, 60):
        raise ValueError(f"frame_ms must be 20, 40 or 60, got {settings['frame_ms']!r}")
    return {
        "native_rate": RATE,
        "channels": 1,
        "frame_rate": 1000 / settings["frame_ms"],
        "nominal_bits_per_second": 1000.0 * kbps,
        "deterministic": True,
    }


def version():
    """First line of what the program says of itself."""
    if shutil.which("opusenc") and shutil.which("opusdec"):
        return _first_line(["opusenc", "--version"])
    if shutil.which("ffmpeg"):
        return _first_line(["ffmpeg", "-version"])
    raise LookupError("neither opusenc and opusdec nor ffmpeg are on the PATH")


def load(settings, weights, device):
    """The function that codes one clip."""
    import numpy as np

    tools = shutil.which("opusenc") and shutil.which("opusdec")
    options = MODES[settings["mode"]]
    kbps, frame = str(settings["kbps"]), str(settings["frame_ms"])

    def code(audio, request):
        coded, output = request["payload"] + ".opus", request["output"]
        if tools:
            told = ["--bitrate", kbps, options[0], "--framesize", frame, "--discard-comments", "--padding", "0"]
            _run(["opusenc", "--quiet", *told, request["input"], coded])
            _run(["opusdec", "--quiet", "--float", "--rate", str(RATE), coded, output])
        else:
            told = ["-c:a", "libopus", "-b:a", kbps + "k", "-vbr", options[1], "-frame_duration", frame]
            _run(["ffmpeg", "-v", "error", "-y", "-i", request["input"], *told, coded])
            _run(["ffmpeg", "-v", "error", "-y", "-i", coded, "-ac", "1", "-c:a", "pcm_f32le", output])
        with open(coded, "rb") as file:
            data = file.read()
        packets = b"".join(ogg_packets(data)[2:])
        return {
            "audio": None,
            "payload": {"packets": (np.frombuffer(packets, np.uint8), 8)},
            "container_bits": 8 * (len(data) - len(packets)),
        }

    return code


def ogg_packets(data):
    """Packets of a single Ogg stream (RFC 3533): a lacing value under 255 ends one, 255 carries on."""
    packets, packet, position = [], b"", 0
    while position < len(data):
        if data[position : position + 4] != b"OggS" or position + 27 > len(data):
            raise ValueError(f"no Ogg page at byte {position}")
        lacing = data[position + 27 : position + 27 + data[position + 26]]
        position += 27 + len(lacing)
        for size in lacing:
            packet += data[position : position + size]
            position += size
            if size < 255:
                packets.append(packet)
                packet = b""
    return packets


def _run(command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if done.returncode:
        words = " ".join(done.stderr.decode(errors="replace").split())[-200:]
        raise RuntimeError(f"{command[0]} ended with status {done.returncode}: {words}")


def _first_line(command):
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode().splitlines()[0]
