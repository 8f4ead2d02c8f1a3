"""MP3 at 8 kbps, the lowest there is, by lame or by ffmpeg's libmp3lame.

48 kHz itself starts at 32 kbps (MPEG-1); 8 kbps needs half the rate (24 kHz, MPEG-2) or a quarter (12 kHz, MPEG-2.5).
Counted are whole audio frames, headers and side information included: they are part of the 8 kbps. A tag frame with the
delay and the length is container. At the lowest bitrates lame leaves it out, and its decoder has to be told the delay. lame
brings 32-bit float wavs to full scale, so it gets 24-bit ones.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import wave

# Highest bitrate of LAME at each rate.
RATES = {12_000: 64, 24_000: 160}
# Samples that LAME's encoder adds in front; its decoder takes off its own 529 by itself.
ENCODER_DELAY = 576
FULL_SCALE = 2**23 - 1
# Bitrates in kbps and sampling rates of MPEG-2 and 2.5, layer III, by the index in the frame header (ISO 13818-3).
KBPS = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
SAMPLING = {2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}

ABOUT = {
    "title": "MP3",
    "package": "lame or ffmpeg",
    "version": "LAME 3.100",
    "imports": [],
    "code_licence": "LGPL (LAME); LGPL/GPL (ffmpeg)",
    "weights_licence": "none",
    "weights_source": "none needed",
    "install": "apt-get install lame",
    "settings": {"kbps": 8, "rate": 12_000},
    "notes": "whole audio frames counted; a tag frame is container; LAME itself lowers the level by 0.4 dB",
}


def describe(settings):
    """8 to 160 kbps at 24 kHz, 8 to 64 at 12 kHz."""
    if settings["kbps"] not in KBPS[1:]:
        raise ValueError(f"kbps must be one of {', '.join(map(str, KBPS[1:]))}, got {settings['kbps']!r}")
    if settings["rate"] not in RATES:
        raise ValueError(f"rate must be 24000 or 12000, got {settings['rate']!r}")
    if settings["kbps"] > RATES[settings["rate"]]:
        raise ValueError(f"kbps at {settings['rate']} Hz is at most {RATES[settings['rate']]}, got {settings['kbps']}")
    return {
        "native_rate": settings["rate"],
        "channels": 1,
        "frame_rate": settings["rate"] / 576,
        "nominal_bits_per_second": 1000.0 * settings["kbps"],
        "deterministic": True,
    }


def version():
    """First line of what the program says of itself."""
    if shutil.which("lame"):
        return _first_line(["lame", "--version"])
    if shutil.which("ffmpeg"):
        return _first_line(["ffmpeg", "-version"])
    raise LookupError("neither lame nor ffmpeg is on the PATH")


def load(settings, weights, device):
    """The function that codes one clip."""
    import numpy as np

    lame = shutil.which("lame")
    kbps, rate = str(settings["kbps"]), settings["rate"]

    def code(audio, request):
        source, coded, output = request["payload"] + ".wav", request["payload"] + ".mp3", request["output"]
        whole = np.round(np.clip(audio, -1.0, 1.0) * FULL_SCALE).astype("<i4")
        with wave.open(source, "wb") as file:
            file.setparams((1, 3, rate, 0, "NONE", ""))
            file.writeframes(whole.view(np.uint8).reshape(-1, 4)[:, :3].tobytes())
        if lame:
            told = ["-b", kbps, "--cbr", "-m", "m", "--resample", str(rate / 1000)]
            _run(["lame", "--quiet", *told, source, coded])
            _run(["lame", "--quiet", "--decode", "--decode-mp3delay", str(ENCODER_DELAY), coded, output])
        else:
            told = ["-c:a", "libmp3lame", "-b:a", kbps + "k", "-ar", str(rate), "-ac", "1"]
            _run(["ffmpeg", "-v", "error", "-y", "-i", source, *told, coded])
            _run(["ffmpeg", "-v", "error", "-y", "-i", coded, "-c:a", "pcm_f32le", output])
        with open(coded, "rb") as file:
            data = file.read()
        frames = b"".join(mp3_frames(data))
        return {
            "audio": None,
            "payload": {"frames": (np.frombuffer(frames, np.uint8), 8)},
            "container_bits": 8 * (len(data) - len(frames)),
        }

    return code


def mp3_frames(data):
    """Audio frames of an MPEG-2 or 2.5 layer III file, without tags and without the frame that holds LAME's tag."""
    frames, position = [], 0
    if data[:3] == b"ID3":
        size = data[6:10]
        position = 10 + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3])
    while position + 4 <= len(data) and data[position : position + 3] != b"TAG":
        header = struct.unpack(">I", data[position : position + 4])[0]
        kind, layer, bitrate, rate = header >> 19 & 3, header >> 17 & 3, header >> 12 & 15, header >> 10 & 3
        if header >> 21 != 0x7FF or kind not in SAMPLING or layer != 1 or not 0 < bitrate < 15 or rate == 3:
            raise ValueError(f"no frame of MPEG-2 layer III at byte {position}")
        size = 72_000 * KBPS[bitrate] // SAMPLING[kind][rate] + (header >> 9 & 1)
        frames.append(data[position : position + size])
        position += size
    if frames and (b"Xing" in frames[0][:48] or b"Info" in frames[0][:48]):
        frames.pop(0)
    return frames


def _run(command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if done.returncode:
        words = " ".join(done.stderr.decode(errors="replace").split())[-200:]
        raise RuntimeError(f"{command[0]} ended with status {done.returncode}: {words}")


def _first_line(command):
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode().splitlines()[0]
