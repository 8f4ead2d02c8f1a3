"""The `.spresso` container: exact inverse, 16 bytes of header, and every kind of damage told in one sentence."""

import dataclasses
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spresso_jax.codec import bitstream
from spresso_jax.codec.bitstream import (
    SAMPLE_RATES,
    BitstreamError,
    EncodedAudio,
    Header,
    pack,
    read_header,
    samples_at_48_khz,
    samples_of_frames,
    unpack,
)
from spresso_jax.shapes import frames_of


def make(
    samples=4800, sample_rate=48_000, channels=1, mid_side=False, bits=10, codebooks=2, downsample=9, model_id=b"abc",
    seed=0,
):  # fmt: skip
    header = Header(sample_rate, channels, mid_side, bits, codebooks, downsample, model_id, samples)
    codes = np.random.default_rng(seed).integers(0, 2**bits, (channels, header.frames, codebooks))
    return EncodedAudio(codes, header)


@st.composite
def encoded_sounds(draw):
    channels = draw(st.integers(1, 8))
    return make(
        samples=draw(st.integers(1, 100_000)),
        sample_rate=draw(st.sampled_from(bitstream.SAMPLE_RATES)),
        channels=channels,
        mid_side=channels > 1 and draw(st.booleans()),
        bits=draw(st.integers(1, 16)),
        codebooks=draw(st.integers(1, 64)),
        downsample=draw(st.integers(1, 128)),
        model_id=draw(st.binary(min_size=3, max_size=3)),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


@settings(deadline=None, max_examples=150)
@given(encoded_sounds())
def test_unpack_is_the_inverse_of_pack(encoded):
    data = pack(encoded)
    assert unpack(data) == encoded
    header = encoded.header
    assert len(data) == header.file_bytes == 16 + math.ceil(encoded.codes.size * header.bits / 8)


@settings(deadline=None, max_examples=150)
@given(encoded_sounds(), st.data())
def test_any_one_to_three_flipped_bits_are_detected(encoded, data):
    raw = bytearray(pack(encoded))
    places = data.draw(st.sets(st.integers(0, 8 * len(raw) - 1), min_size=1, max_size=3))
    for place in places:
        raw[place // 8] ^= 0x80 >> place % 8
    with pytest.raises(BitstreamError):
        unpack(bytes(raw))


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=80))
def test_foreign_bytes_never_pass(data):
    with pytest.raises(BitstreamError):
        unpack(data)


@settings(deadline=None, max_examples=300)
@given(st.binary(min_size=14, max_size=60))
def test_foreign_bytes_behind_the_right_first_bytes_never_pass(data):
    with pytest.raises(BitstreamError):
        unpack(pack(make())[:2] + data)


@pytest.mark.parametrize(
    "encoded", [make(480), make(3_000, channels=2, bits=3, codebooks=1, downsample=4, mid_side=True)]
)
def test_every_single_flipped_bit_of_a_small_file_is_detected(encoded):
    data = pack(encoded)
    for place in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[place // 8] ^= 0x80 >> place % 8
        with pytest.raises(BitstreamError):
            unpack(bytes(damaged))


def test_every_truncation_and_every_appended_byte_is_detected():
    data = pack(make())
    for length in range(len(data)):
        with pytest.raises(BitstreamError):
            unpack(data[:length])
    for extra in (b"\0", data):
        with pytest.raises(BitstreamError, match="asks for"):
            unpack(data + extra)


def test_messages_are_one_sentence_about_the_cause():
    data = pack(make())
    later = bytes([data[0], data[1] & 0xF0 | 0x04 | data[1] & 1]) + data[2:]
    cases = {
        b"": "empty file",
        b"RIFF": "too few",
        b"RIFF" + bytes(40): "not a .spresso file",
        data[:-1]: "truncated",
        data[:-1] + bytes([data[-1] ^ 16]): "checksum",
        later: "version 2.*update spresso_jax",
    }
    for damaged, message in cases.items():
        with pytest.raises(BitstreamError, match=message) as caught:
            unpack(damaged)
        assert "\n" not in str(caught.value)


def test_an_absurd_length_is_refused_at_once():
    data = bytearray(pack(make()))
    data[8:12] = b"\xff\xff\xff\xff"
    start = time.perf_counter()
    with pytest.raises(BitstreamError, match="asks for"):
        unpack(bytes(data))
    assert time.perf_counter() - start < 2.0


def test_zero_samples_are_refused():
    data = bytearray(pack(make()))
    data[8:12] = bytes(4)
    with pytest.raises(BitstreamError, match="no samples"):
        unpack(bytes(data))


def test_stray_bits_after_the_last_code_are_refused_even_with_a_right_checksum():
    import zlib

    encoded = make(480, bits=3, codebooks=1)
    data = bytearray(pack(encoded))
    data[-1] |= 1
    data[12:16] = zlib.crc32(data[16:], zlib.crc32(data[:12])).to_bytes(4, "big")
    with pytest.raises(BitstreamError, match="stray"):
        unpack(bytes(data))


def test_codes_are_packed_most_significant_bit_first():
    encoded = make(480, bits=3, codebooks=4)
    encoded = dataclasses.replace(encoded, codes=np.array([[[0b101, 0b001, 0b110, 0b011]]]))
    assert pack(encoded)[16:] == bytes([0b10100111, 0b00110000])


def test_the_header_bytes_of_version_1_stay_as_they_are():
    encoded = make(240_000, 44_100, 2, True, 12, 8, 100, b"\x01\x02\x03")
    assert pack(encoded)[:12].hex() == "53522763e3" + "010203" + "0003a980"
    assert read_header(pack(encoded), len(pack(encoded))) == encoded.header


@pytest.mark.parametrize(
    "change",
    [
        {"channels": 9}, {"channels": 0}, {"bits": 17}, {"codebooks": 65}, {"downsample": 129}, {"samples": 0},
        {"samples": 2**32}, {"sample_rate": 12_345}, {"mid_side": True}, {"model_id": b"ab"},
    ],
)  # fmt: skip
def test_a_header_that_cannot_be_stored_is_refused(change):
    header = dataclasses.replace(make().header, **change)
    with pytest.raises(BitstreamError):
        EncodedAudio(np.zeros((1, 2, 2), int), header)


def test_codes_of_another_shape_range_or_type_are_refused():
    good = make()
    for codes in (good.codes[:, :-1], good.codes + 2**10, good.codes - 2**10, good.codes.astype(float)):
        with pytest.raises(BitstreamError):
            dataclasses.replace(good, codes=codes)


def test_frames_cover_the_sound_and_are_not_one_too_many():
    for samples, rate, downsample, frames in (
        (240_000, 48_000, 9, 56), (240_000, 48_000, 20, 25), (240_000, 48_000, 100, 5), (240_001, 48_000, 100, 6),
        (220_500, 44_100, 20, 25), (1, 8_000, 9, 1),
    ):  # fmt: skip
        assert make(samples, rate, downsample=downsample).header.frames == frames


def test_bitrates_of_five_seconds_at_the_papers_points():
    rates = make(240_000, bits=10, codebooks=12, downsample=9).bitrates()
    assert rates["nominal"] == pytest.approx(1.32)
    assert rates["payload"] == pytest.approx(56 * 120 / 5000)
    assert rates["file"] == pytest.approx((56 * 120 + 128) / 5000)
    assert make(240_000, bits=12, codebooks=8, downsample=100).bitrates()["nominal"] == pytest.approx(0.096)
    assert make(240_000, bits=12, codebooks=25, downsample=100).bitrates()["nominal"] == pytest.approx(0.3)
    assert make(240_000, bits=12, codebooks=8, downsample=100, channels=2).bitrates()["nominal"] == pytest.approx(0.192)


def test_files_are_saved_whole_and_loaded(tmp_path):
    encoded = make()
    encoded.save(tmp_path / "a.spresso")
    assert [path.name for path in tmp_path.iterdir()] == ["a.spresso"]
    assert EncodedAudio.load(tmp_path / "a.spresso") == encoded == EncodedAudio.from_bytes(bytes(encoded))


@given(st.integers(1, 10_000), st.sampled_from(SAMPLE_RATES))
def test_samples_of_frames_need_exactly_those_frames(frames, rate):
    assert frames_of(samples_at_48_khz(samples_of_frames(frames, rate), rate)) == frames
