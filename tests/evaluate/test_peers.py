"""The peer adapter against peers that the test writes: a good one, and those that crash, hang, lie or babble."""

import json
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from data_pipeline.audio_files import read_audio
from spresso_jax.cli.main import app
from spresso_jax.evaluate.decoded import Clip
from spresso_jax.evaluate.peers import adapter, environments, mp3, opus, record
from spresso_jax.evaluate.peers.adapter import code_clips, make_peer
from spresso_jax.evaluate.peers.process import CHILD, Peer, PeerError
from spresso_jax.evaluate.systems import folder_system

RNG = np.random.default_rng(0)
CLIPS = [
    Clip(name, (0.2 * RNG.standard_normal(size)).astype(np.float32))
    for name, size in (("rain", 24_000), ("metal/door 1", 30_001), ("tick", 999))
]

# A codec with everything an adapter must handle: a rate of its own, a delay, frames of 64 samples, 4-bit symbols and a
# 32-bit scale. `{code}` is what its function does before it answers.
PEER = """
import os, sys, time
import numpy as np

ABOUT = dict(title="Fake", package="numpy", version="1", imports={imports}, code_licence="MIT", weights_licence="MIT",
             weights_source="nowhere", install="-", settings={{}})

def describe(settings):
    return dict(native_rate=16000, channels=1, frame_rate=250.0, nominal_bits_per_second=1000.0, deterministic=True,
                delay=7)

def find_weights(settings, given):
    print("a package that prints to standard output")
    return [given] if given and os.path.isfile(given) else None

def load(settings, weights, device):
    {load}
    def code(audio, request):
        frames = -(-audio.size // 64)
        symbols = np.arange(frames) % 16
        scale = np.float32([np.abs(audio).max() + 1e-9]).view(np.uint32)
        out = np.concatenate([np.zeros(7, np.float32), audio, np.zeros(-audio.size % 64 + 5, np.float32)])
        made = dict(audio=out, payload=dict(codes=(symbols, 4), scale=(scale, 32)), container_bits=80)
        {code}
        return made
    return code
"""


def fake(folder, code="", load="", imports=(), weights=True, **options):
    """A peer whose file lies in `folder`, with weights unless told otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "peer_file.py"
    file.write_text(PEER.format(code=code or "pass", load=load or "pass", imports=list(imports)))
    (folder / "weights.bin").write_bytes(b"tensors")
    limits = {"load_seconds": 60.0, "clip_seconds": 60.0, **options}
    return Peer("fake", {"q": 2}, weights=str(folder / "weights.bin") if weights else None, file=file, **limits)


def wav(path):
    return read_audio(path)[0]


def test_a_good_peer_gives_sounds_of_the_right_length_counted_bits_and_facts(tmp_path):
    made = code_clips(fake(tmp_path), CLIPS, tmp_path / "out")
    symbols = {clip.name: -(-round(clip.audio.size / 3) // 64) for clip in CLIPS}
    assert made.status == "coded" and set(made.files) == set(symbols)
    for clip in CLIPS:
        entry = made.files[clip.name]
        assert entry["payload_bits"] == 4 * symbols[clip.name] + 32 and entry["container_bits"] == 80
        audio, info = read_audio(tmp_path / "out" / f"{clip.name}.wav")
        assert audio.shape == clip.audio.shape and info.format == "WAV/FLOAT"
    seconds = sum(clip.seconds for clip in CLIPS)
    assert made.kbps == pytest.approx(sum(4 * n + 32 for n in symbols.values()) / seconds / 1000)
    kept = json.loads((tmp_path / "out" / record.RECORD).read_text())
    assert kept["measured"]["kbps"] == pytest.approx(made.kbps) and kept["facts"]["version"] == np.__version__
    assert list(kept["facts"]["weights"]) == ["weights.bin"] and len(kept["facts"]["weights"]["weights.bin"]) == 64
    assert record.PeerRecord.read(tmp_path / "out") == made


def test_the_known_delay_is_gone_after_resampling_back(tmp_path):
    time_axis = np.arange(24_000) / 48_000
    tone = Clip("tone", (0.3 * np.sin(2 * np.pi * 440 * time_axis) * np.hanning(24_000)).astype(np.float32))
    code_clips(fake(tmp_path), [tone], tmp_path / "out")
    assert np.abs(wav(tmp_path / "out" / "tone.wav") - tone.audio).max() < 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"code": "os._exit(3)"}, "ended with status 3 while coding 'rain'"),
        (
            {"load": "sys.stderr.write('no memory left'); sys.stderr.flush(); os._exit(9)"},
            "last words '.*no memory left'",
        ),
        ({"code": "time.sleep(60)", "clip_seconds": 0.5}, "longer than 0.5 s while coding 'rain'"),
        ({"load": "time.sleep(60)", "load_seconds": 1.5}, "longer than 1.5 s while loading"),
        ({"code": "raise RuntimeError('bad shape')"}, "failed on 'rain': RuntimeError: bad shape"),
        ({"load": "raise MemoryError('no room')"}, "failed while loading: MemoryError: no room"),
        ({"code": "os.write({pipe}, b'<html>' + bytes(9) + b'\\n')"}, "printed '<html>.*' instead of an answer"),
        ({"code": "os.write({pipe}, b'[1]\\n')"}, "instead of an answer"),
        ({"code": "[os.write({pipe}, b'x' * 65536) for _ in range(40)]"}, "more than 1048576 bytes"),
        ({"code": "made['payload_bits'] = 1"}, "says 1 bits for 'rain', but the symbols it gave hold 532"),
        ({"code": "made['payload']['codes'] = (symbols + 9, 4)"}, "do not fit 4 bits"),
        ({"code": "made['payload']['codes'] = (symbols - 1, 4)"}, "do not fit 4 bits"),
        ({"code": "made['payload']['codes'] = (symbols / 2, 4)"}, "holds float64, not whole numbers"),
        ({"code": "made['payload']['codes'] = (symbols, 0)"}, "width outside 1..64"),
        ({"code": "made['payload'] = {{}}"}, "gave no symbols for 'rain'"),
        ({"code": "made['audio'] = out[:-200]"}, "gave .* samples for 'rain', not 8007 to"),
        ({"code": "made['audio'] = np.zeros(400_000)"}, "gave 400000 samples for 'rain'"),
        ({"code": "made['audio'] = out * np.nan"}, "NaN or infinite"),
        ({"code": "made['audio'] = np.stack([out, out])"}, "not one channel"),
        ({"code": "made['audio'] = None"}, "no such file"),
        ({"imports": ["package_that_nobody_has"]}, "not installed in .*cannot import package_that_nobody_has"),
        ({"python": "/no/such/python"}, "/no/such/python cannot be started"),
    ],
)
def test_a_bad_peer_is_one_sentence_and_leaves_no_sound(options, message, tmp_path):
    # The child keeps its pipe to us as a duplicate of standard output, the first free number.
    code = options.get("code", "").replace("{pipe}", "3").replace("{{}}", "{}")
    began = time.monotonic()
    with pytest.raises(ValueError, match=message) as caught:
        code_clips(fake(tmp_path, **{**options, "code": code}), CLIPS[:1], tmp_path / "out")
    assert "\n" not in str(caught.value) and time.monotonic() - began < 30
    assert not list((tmp_path / "out").rglob("*.wav"))


def test_a_hanging_peer_is_ended_with_what_it_started(tmp_path):
    code = "import subprocess; open(%r, 'w').write(str(subprocess.Popen(['sleep', '600']).pid)); time.sleep(600)"
    with pytest.raises(PeerError, match="longer than"):
        code_clips(fake(tmp_path, code % str(tmp_path / "pid"), clip_seconds=3.0), CLIPS[:1], tmp_path / "out")
    grandchild = int((tmp_path / "pid").read_text())
    end = time.monotonic() + 30  # a busy machine takes a moment to end it
    while _lives(grandchild) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _lives(grandchild)


def test_a_child_ends_with_its_parent_in_the_middle_of_a_clip(tmp_path):
    peer = fake(tmp_path, load="time.sleep(600)")
    settings = {"settings": {}, "weights": peer.weights, "random_weights": False, "device": "cpu"}
    command = [sys.executable, str(CHILD), str(peer.file), json.dumps(settings)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    child.stdin.close()
    assert child.wait(60) == 0


def _lives(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_missing_weights_are_an_answer_and_never_random_ones(tmp_path):
    made = code_clips(fake(tmp_path, weights=False), CLIPS, tmp_path / "out")
    assert made.status == "weights unavailable" and "nowhere (MIT)" in made.detail and not made.files
    assert not list((tmp_path / "out").rglob("*.wav"))
    with pytest.raises(ValueError, match="had no weights"):
        record.peer_system(tmp_path / "out", CLIPS, wav)


def test_a_self_check_is_marked_and_refused_by_every_way_into_a_table(tmp_path):
    peer = fake(tmp_path, weights=False, random_weights=True)
    assert peer.key == "fake-q-2-random-weights"
    made = code_clips(peer, CLIPS, tmp_path / peer.key)
    assert made.status == "coded" and made.random_weights and made.facts["weights"] == "random"
    for way in (
        lambda folder: record.refuse_untabled(folder),
        lambda folder: record.peer_system(folder, CLIPS, wav),
        lambda folder: folder_system(folder, CLIPS, wav),
    ):
        with pytest.raises(ValueError, match="random weights"):
            way(tmp_path / peer.key)


def test_a_peer_becomes_a_column_and_changed_clips_are_refused(tmp_path):
    made = code_clips(fake(tmp_path), CLIPS, tmp_path / "out")
    system = record.peer_system(tmp_path / "out", CLIPS, wav)
    assert system.kbps == pytest.approx(made.kbps) and system.frame_rate == 250.0 and system.key == "peer-fake-q-2"
    assert [audio.size for audio in system.produce(CLIPS, range(3))] == [clip.audio.size for clip in CLIPS]
    part = record.peer_system(tmp_path / "out", CLIPS[2:], wav)
    assert part.kbps == pytest.approx((4 * 6 + 32) / CLIPS[2].seconds / 1000) and part.fingerprint != system.fingerprint
    assert folder_system(tmp_path / "out", CLIPS, wav).kind == system.kind
    louder = [Clip("rain", 2 * CLIPS[0].audio)]
    with pytest.raises(ValueError, match="'rain' was coded from other samples"):
        record.peer_system(tmp_path / "out", louder, wav)
    with pytest.raises(ValueError, match="no decoded file for 'wind'"):
        record.peer_system(tmp_path / "out", [Clip("wind", CLIPS[0].audio)], wav)


def test_a_run_continues_where_it_stopped_and_redoes_what_changed(tmp_path):
    with pytest.raises(PeerError, match="failed on 'tick'"):
        code_clips(fake(tmp_path, "assert audio.size > 1000"), CLIPS, tmp_path / "out")
    with pytest.raises(ValueError, match="unfinished"):
        record.refuse_untabled(tmp_path / "out")
    first = tmp_path / "out" / "rain.wav"
    before = first.stat().st_mtime_ns
    assert code_clips(fake(tmp_path), CLIPS, tmp_path / "out").status == "coded"
    assert first.stat().st_mtime_ns == before
    (tmp_path / "weights.bin").write_bytes(b"other")  # other weights, other sounds
    code_clips(Peer("fake", {"q": 2}, weights=str(tmp_path / "weights.bin"), file=tmp_path / "peer_file.py"), CLIPS,
               tmp_path / "out")  # fmt: skip
    assert first.stat().st_mtime_ns > before


def test_names_that_leave_the_folder_or_meet_are_refused(tmp_path):
    for names in (("../x",), ("a", "a"), ("spresso-peer",)):
        with pytest.raises(PeerError):
            code_clips(fake(tmp_path), [Clip(name, CLIPS[0].audio) for name in names], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_settings_are_checked_before_anything_starts():
    for name, settings, message in (
        ("vocoder", {}, "no peer is called 'vocoder'"),
        ("dac", {"n_quantizers": 10}, "dac: n_quantizers must be a whole number from 1 to 9"),
        ("dac", {"quantizers": 1}, "dac has no setting 'quantizers': its settings are n_quantizers"),
        ("dac", {}, "give its path with --python dac=PATH"),
        ("encodec", {"model": "48khz"}, "bandwidth must be one of 3.0, 6.0, 12.0, 24.0"),
        ("opus", {"kbps": 5}, "kbps must lie within 6 and 256"),
        ("mp3", {"rate": 48_000}, "rate must be 24000 or 12000"),
    ):
        with pytest.raises(PeerError, match=message):
            make_peer(name, settings)
    with pytest.raises(PeerError, match="without --random-weights"):
        make_peer("opus", random_weights=True)


def test_every_peer_says_what_a_table_needs():
    for name in adapter.NAMES:
        about = adapter.module_of(name).ABOUT
        assert all(about[key] for key in ("title", "package", "version", "code_licence", "weights_licence", "install"))
        facts = adapter.module_of(name).describe(about["settings"])
        assert {"native_rate", "channels", "frame_rate", "nominal_bits_per_second", "deterministic"} <= set(facts)
    nominal = [
        adapter.module_of(name).describe({**adapter.module_of(name).ABOUT["settings"], **settings})
        for name, settings in (
            ("dac", {}),
            ("encodec", {}),
            ("semanticodec", {}),
            ("semanticodec", {"token_rate": 25, "semantic_vocab_size": 4096}),
        )
    ]
    assert [facts["nominal_bits_per_second"] for facts in nominal] == pytest.approx([1722.65625, 1500.0, 1400.0, 312.5])


def test_environments_come_from_a_file_and_the_command_line_overrides_it(tmp_path):
    file = tmp_path / "peers.toml"
    file.write_text('[dac]\npython = "/a/python"\nweights = "/a/weights.pth"\n')
    known = environments.read_environments(file, ["dac=/b/python", "encodec=/c/python"])
    assert known == {"dac": {"python": "/b/python", "weights": "/a/weights.pth"}, "encodec": {"python": "/c/python"}}
    for text in ("[dac\n", "[vocoder]\n", "[dac]\nhome = 'x'\n", "[dac]\npython = 3\n", "dac = 'x'\n"):
        file.write_text(text)
        with pytest.raises(PeerError, match="peers.toml"):
            environments.read_environments(file)
    with pytest.raises(PeerError, match="PEER=PATH"):
        environments.read_environments(None, ["dac"])
    with pytest.raises(PeerError, match="no such file"):
        environments.read_environments(tmp_path / "none.toml")


@pytest.mark.skipif(not (shutil.which("opusenc") or shutil.which("ffmpeg")), reason="neither opusenc nor ffmpeg here")
def test_opus_keeps_length_place_and_bitrate(tmp_path):
    made = _check_program(make_peer("opus", {"mode": "cbr"}), tmp_path, kbps=6, most=1.15)
    assert made.files["chirp"]["container_bits"] > 8 * (27 + 19)  # a page and OpusHead at least


@pytest.mark.skipif(not (shutil.which("lame") or shutil.which("ffmpeg")), reason="neither lame nor ffmpeg here")
def test_mp3_keeps_length_place_and_bitrate(tmp_path):
    _check_program(make_peer("mp3"), tmp_path, kbps=8, most=1.1)


def _check_program(peer, folder, kbps, most):
    """A quiet chirp comes back in its place, as long and as loud as it was, at about the bitrate that was asked for."""
    time_axis = np.arange(120_001) / 48_000
    phase = 2 * np.pi * (200 * time_axis + 120 * time_axis**2)
    chirp = Clip("chirp", (0.1 * np.sin(phase) * np.hanning(120_001)).astype(np.float32))
    made = code_clips(peer, [chirp], folder / "out")
    audio = wav(folder / "out" / "chirp.wav")
    assert audio.shape == chirp.audio.shape
    assert abs(10 * np.log10(np.mean(audio**2) / np.mean(chirp.audio**2))) < 3
    spectrum = np.fft.rfft(audio, 2**18) * np.conj(np.fft.rfft(chirp.audio, 2**18))
    lag = int(np.argmax(np.fft.irfft(spectrum)))
    assert min(lag, 2**18 - lag) <= 48  # a millisecond
    assert kbps <= made.kbps <= most * kbps
    return made


def test_ogg_packets_and_mp3_frames_are_told_from_their_containers():
    def page(lacing, body):
        return b"OggS" + bytes(22) + bytes([len(lacing)]) + bytes(lacing) + body

    stream = page([8], b"OpusHead") + page([8], b"OpusTags") + page([3, 255], b"abc" + b"d" * 255) + page([2], b"ee")
    assert opus.ogg_packets(stream) == [b"OpusHead", b"OpusTags", b"abc", b"d" * 255 + b"ee"]
    with pytest.raises(ValueError, match="no Ogg page at byte 36"):
        opus.ogg_packets(stream[:36] + b"x" * 40)
    frame = bytes([0xFF, 0xF3, 0x14, 0xC0]) + bytes(20)  # MPEG-2 layer III, 8 kbps, 24 kHz: 24 bytes
    tag = frame[:13] + b"Info" + frame[17:]
    assert mp3.mp3_frames(b"ID3\x04\x00\x00\x00\x00\x00\x02zz" + tag + frame * 3 + b"TAG" + bytes(125)) == [frame] * 3
    with pytest.raises(ValueError, match="no frame of MPEG-2 layer III at byte 24"):
        mp3.mp3_frames(frame + b"<html>")


def test_the_commands_list_peers_and_say_what_is_missing(tmp_path):
    shown = CliRunner().invoke(app, ["peers", "list"])
    assert shown.exit_code == 0 and all(f"{name}: " in shown.output for name in adapter.NAMES)
    assert "give --python dac=PATH" in shown.output
    for i in range(3):
        soundfile.write(tmp_path / f"{i}.wav", CLIPS[0].audio[: 4_800 * (i + 1)], 48_000)
    words = ["peers", "run", "lowpass", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0 and "no bits" in done.output, done.output
    assert len(list((tmp_path / "out" / "lowpass-rate-7000").glob("*.wav"))) == 3
    failed = CliRunner().invoke(app, [*words, "--set", "rate=3"])
    assert failed.exit_code == 2 and "rate must be a whole number from 1000" in failed.output
