"""Bandwidth alone: the clip at a lower rate and back, nothing coded. At 7 kHz it is the 3.5 kHz low-pass of a MUSHRA."""

from __future__ import annotations

ABOUT = {
    "title": "low-pass",
    "package": "soxr (the evaluation's resampler)",
    "version": "0.5 or later",
    "imports": [],
    "code_licence": "LGPL (libsoxr)",
    "weights_licence": "none",
    "weights_source": "none needed",
    "install": "nothing",
    "settings": {"rate": 7_000},
    "notes": "sends no bits; keeps everything under half the rate",
}


def describe(settings):
    """Any rate that the resampler takes."""
    rate = settings["rate"]
    if not isinstance(rate, int) or not 1_000 <= rate <= 48_000:
        raise ValueError(f"rate must be a whole number from 1000 to 48000, got {rate!r}")
    return {
        "native_rate": rate,
        "channels": 1,
        "frame_rate": None,
        "nominal_bits_per_second": None,
        "deterministic": True,
    }


def version():
    """Nothing runs here: the adapter's resampling is all there is."""
    return "-"


def load(settings, weights, device):
    """The function that codes one clip."""

    def code(audio, request):
        return {"audio": audio, "payload": {}}

    return code
