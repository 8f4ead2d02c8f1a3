"""Decoding, down-mix, resampling, checks and the malformed files that people have."""

import pathlib
import struct

import numpy as np
import pytest
import soundfile

from data_pipeline import audio_files
from data_pipeline.audio_files import AudioFileError, check_clip, read_audio, read_clip, write_audio


def tone(seconds, rate, level=0.4, frequency=440.0):
    return (level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def wav_with_data_length(path, length):
    """A 44.1 kHz WAV whose header claims `length` bytes of data; 0.5 s follow."""
    body = (tone(0.5, 44_100) * 32767).astype("<i2").tobytes()
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 44_100, 88_200, 2, 16)
    riff = min(2**32 - 1, length + 36)
    path.write_bytes(struct.pack("<4sI4s", b"RIFF", riff, b"WAVE") + fmt + struct.pack("<4sI", b"data", length) + body)


def make(name, path):
    rng = np.random.default_rng(0)
    write = soundfile.write
    if name == "good.flac":
        write(path, tone(1, 48_000), 48_000)
    elif name == "u8.wav":
        write(path, tone(1, 8_000), 8_000, subtype="PCM_U8")
    elif name == "stereo_96k.wav":
        write(path, np.stack([tone(0.25, 96_000)] * 2, 1), 96_000, subtype="PCM_24")
    elif name == "rate_192k.flac":
        write(path, tone(0.25, 192_000), 192_000)
    elif name == "over_range.wav":
        write(path, tone(0.25, 48_000, level=3.2), 48_000, subtype="FLOAT")
    elif name == "six.wav":
        write(path, np.stack([tone(0.2, 48_000, frequency=200 * (k + 1)) for k in range(6)], 1), 48_000)
    elif name == "antiphase.wav":
        write(path, np.stack([tone(0.25, 48_000), -tone(0.25, 48_000)], 1), 48_000)
    elif name == "clipped.wav":
        write(path, np.clip(tone(0.5, 48_000, level=8), -1, 1), 48_000)
    elif name == "offset.wav":
        write(path, 0.85 + tone(0.5, 48_000, level=0.05), 48_000, subtype="FLOAT")
    elif name in ("vorbis.ogg", "opus.opus", "mpeg.mp3"):
        rate = {"vorbis.ogg": 22_050, "opus.opus": 48_000, "mpeg.mp3": 44_100}[name]
        write_audio(path, tone(1, rate), rate)
    elif name in ("wind 風 été #1 (50%).wav", "UPPER.WAV"):
        write(path, tone(0.2, 48_000), 48_000)
    elif name == "wav_named.flac":
        write(path, tone(0.2, 48_000), 48_000, format="WAV")
    elif name == "header_2_gib.wav":
        wav_with_data_length(path, 2**31)
    elif name == "header_zero.wav":
        wav_with_data_length(path, 0)
    elif name == "truncated.flac":
        write(path, rng.uniform(-0.5, 0.5, 48_000).astype(np.float32), 48_000)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 5])
    elif name == "empty.wav":
        path.write_bytes(b"")
    elif name == "text.wav":
        path.write_text("this is not a sound\n" * 10)
    elif name == "page.mp3":
        path.write_text("<!DOCTYPE html><html><body>404</body></html>")
    elif name == "not_finite.wav":
        audio = tone(0.25, 48_000)
        audio[10:20], audio[30:33] = np.nan, np.inf
        write(path, audio, 48_000, subtype="FLOAT")
    elif name == "one_sample.wav":
        write(path, tone(1, 48_000)[5:6], 48_000)
    elif name == "zeros.flac":
        write(path, np.zeros(48_000, np.float32), 48_000)
    elif name == "last_bit.flac":
        write(path, rng.integers(-1, 2, 48_000).astype(np.int16), 48_000)
    elif name == "garbage.wav":
        path.write_bytes(b"RIFF\x00\x10\x00\x00WAVE" + rng.bytes(4096))
    else:
        raise KeyError(name)
    return path


ACCEPTED = {
    "good.flac": (48_000, 1, []),
    "header_2_gib.wav": (24_000, 1, []),
    "u8.wav": (48_000, 1, []),
    "stereo_96k.wav": (12_000, 2, []),
    "rate_192k.flac": (12_000, 1, []),
    "over_range.wav": (12_000, 1, ["clipped", "over_range"]),
    "six.wav": (9_600, 6, []),
    "antiphase.wav": (12_000, 2, []),
    "clipped.wav": (24_000, 1, ["clipped"]),
    "offset.wav": (24_000, 1, ["dc"]),
    "vorbis.ogg": (48_000, 1, []),
    "opus.opus": (48_000, 1, []),
    "wind 風 été #1 (50%).wav": (9_600, 1, []),
    "UPPER.WAV": (9_600, 1, []),
    "wav_named.flac": (9_600, 1, []),
}
REJECTED = {
    "header_zero.wav": "empty",
    "truncated.flac": "damaged",
    "empty.wav": "empty",
    "text.wav": "unrecognised",
    "page.mp3": "unrecognised",
    "not_finite.wav": "non_finite",
    "one_sample.wav": "too_short",
    "zeros.flac": "silent",
    "last_bit.flac": "silent",
    "garbage.wav": "damaged",
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_usable_file_is_read_at_48_khz_with_its_flags(name, tmp_path):
    samples, channels, flags = ACCEPTED[name]
    audio, info, findings = read_clip(make(name, tmp_path / name))
    assert audio.dtype == np.float32 and audio.shape == (samples,) and np.isfinite(audio).all()
    assert info.channels == channels and findings.flags == flags and findings.reject is None
    assert findings.peak > 0.04


def test_mpeg_is_read_to_within_60_ms(tmp_path):
    audio, _, _ = read_clip(make("mpeg.mp3", tmp_path / "mpeg.mp3"))
    assert abs(len(audio) - 48_000) <= 0.06 * 48_000


@pytest.mark.parametrize("name", REJECTED)
def test_an_unusable_file_is_refused_in_one_sentence_that_names_it(name, tmp_path, capfd):
    path = make(name, tmp_path / name)
    with pytest.raises(AudioFileError) as caught:
        read_clip(path)
    message = str(caught.value)
    assert caught.value.kind == REJECTED[name]
    assert message.startswith(f"{path}: ") and "\n" not in message
    assert capfd.readouterr().err == ""


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "absent.wav", tmp_path):
        with pytest.raises(AudioFileError, match="no such file|cannot be opened"):
            read_audio(path)


def test_what_decodes_to_too_much_is_refused(tmp_path):
    path = make("good.flac", tmp_path / "good.flac")
    with pytest.raises(AudioFileError, match="cut it into shorter files") as caught:
        read_audio(path, max_bytes=50_000)
    assert caught.value.kind == "too_large"


def test_a_slow_rate_that_would_blow_up_is_refused(tmp_path):
    soundfile.write(tmp_path / "slow.wav", tone(1, 100, frequency=9), 100)
    with pytest.raises(AudioFileError, match="header says 100 Hz"):
        read_audio(tmp_path / "slow.wav")


@pytest.mark.parametrize("rate", [8_000, 11_025, 11_127, 22_254, 44_100, 88_200, 96_000])
def test_length_after_resampling_is_the_rounded_one(rate):
    for samples in (1, 7, 1000, 12_345):
        assert len(audio_files.resample(np.ones(samples, np.float32), rate, 48_000)) == round(samples * 48_000 / rate)


def test_resampling_keeps_a_tone():
    out = audio_files.resample(tone(0.5, 44_100, frequency=15_000), 44_100, 48_000)
    expected = tone(0.5, 48_000, frequency=15_000)
    assert np.abs(out - expected)[2000:-2000].max() < 1e-3


def test_down_mix_is_the_mean_and_keeps_what_the_mean_would_cancel():
    left, right = tone(0.1, 48_000), tone(0.1, 48_000, frequency=700)
    np.testing.assert_allclose(audio_files.down_mix(np.stack([left, right], 1)), (left + right) / 2, atol=1e-7)
    np.testing.assert_array_equal(audio_files.down_mix(np.stack([left, -0.9 * left], 1)), left)


def test_keep_gives_all_channels(tmp_path):
    audio, _ = read_audio(make("six.wav", tmp_path / "six.wav"), channels="keep")
    assert audio.shape == (9_600, 6)
    with pytest.raises(ValueError, match="channels must be"):
        read_audio(tmp_path / "six.wav", channels="left")


def test_a_clip_with_little_activity_is_rejected_only_where_asked():
    audio = np.zeros(5 * 48_000, np.float32)
    audio[:4_800] = tone(0.1, 48_000)
    assert "2.0%" in check_clip(audio).reject
    assert check_clip(audio, min_active=0.0).reject is None


def test_an_offset_is_removed_before_the_silence_check():
    assert check_clip(np.full(4_800, 0.5, np.float32)).kind == "silent"


def test_written_audio_comes_back_and_is_clipped_not_wrapped(tmp_path):
    audio = tone(0.1, 48_000, level=1.5)
    for suffix in (".wav", ".flac", ".aiff"):
        write_audio(tmp_path / f"x{suffix}", audio)
        back, info = read_audio(tmp_path / f"x{suffix}")
        np.testing.assert_allclose(back, np.clip(audio, -1, 1), atol=1e-4)
    write_audio(tmp_path / "x.wav", audio, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(tmp_path / "x.wav")[0], audio)
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(AudioFileError, match="cannot write suffix"):
        write_audio(tmp_path / "x.xyz", tone(0.1, 48_000))
    with pytest.raises(AudioFileError, match="folder does not exist"):
        write_audio(tmp_path / "no" / "x.wav", tone(0.1, 48_000))
    with pytest.raises(ValueError, match="NaN"):
        write_audio(tmp_path / "x.wav", np.array([np.nan]))
    assert not list(pathlib.Path(tmp_path).iterdir())
