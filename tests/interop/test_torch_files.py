"""Reader and writer of PyTorch files: refuse code, survive damage, read views, ask for no more memory than is due."""

import os
import struct
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
from torch_file_writer import Named, old_tensor, tensor, write, write_old

from spresso_jax.interop.foreign_tensors import read_tensors
from spresso_jax.interop.torch_files import TorchFileError, load_torch_file
from spresso_jax.interop.torch_writer import save_torch_file

DATA = struct.pack("<6f", *range(6))


def test_views_are_read_as_torch_means_them(tmp_path):
    write(tmp_path / "a.pt", {"model": [tensor((2, 3), (3, 1)), tensor((3, 2), (1, 3)), tensor((2,), (1,), 4)]}, DATA)
    plain, transposed, tail = load_torch_file(tmp_path / "a.pt")["model"]
    np.testing.assert_array_equal(plain, np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(transposed, plain.T)
    np.testing.assert_array_equal(tail, [4, 5])


def test_bfloat16_is_read_bit_by_bit(tmp_path):
    values = np.array([1.0, -2.5, 3e38], np.float32)
    halves = (values.view(np.uint32) >> 16).astype("<u2")
    write(tmp_path / "a.pt", tensor((3,), (1,), count=3, kind="BFloat16Storage"), halves.tobytes())
    read = load_torch_file(tmp_path / "a.pt")
    assert read.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(read.astype(np.float32).view(np.uint32) >> 16, halves)


def test_a_file_that_names_code_is_refused_and_nothing_runs(tmp_path):
    target = tmp_path / "touched"
    write(tmp_path / "a.pt", [Named(os.system.__module__, "system", (f"touch {target}",))])
    with pytest.raises(TorchFileError, match="only tensors"):
        load_torch_file(tmp_path / "a.pt")
    assert not target.exists()


BEYOND = [((7,), (1,), 0), ((2, 3), (30, 1), 0), ((2,), (1,), 5), ((2,), (-1,), 1), ((2,), (1, 1), 0)]


@pytest.mark.parametrize("size, stride, offset", BEYOND)
def test_a_view_beyond_its_storage_is_refused(tmp_path, size, stride, offset):
    write(tmp_path / "a.pt", tensor(size, stride, offset), DATA)
    with pytest.raises(TorchFileError):
        load_torch_file(tmp_path / "a.pt")


def test_a_short_storage_and_a_file_of_another_kind_are_refused(tmp_path):
    write(tmp_path / "a.pt", tensor((6,), (1,)), DATA[:10])
    with pytest.raises(TorchFileError, match="damaged"):
        load_torch_file(tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(b"not a zip file")
    with pytest.raises(TorchFileError, match="zip"):
        load_torch_file(tmp_path / "b.pt")
    with zipfile.ZipFile(tmp_path / "c.pt", "w") as archive:
        archive.writestr("readme", "x")
    with pytest.raises(TorchFileError, match="data.pkl"):
        load_torch_file(tmp_path / "c.pt")
    with pytest.raises(FileNotFoundError):
        load_torch_file(tmp_path / "missing.pt")


def test_a_state_dict_with_torchs_metadata_is_tensors_by_name(tmp_path):
    state = OrderedDict(first=tensor((2, 3), (3, 1)), second=tensor((2,), (1,), 4))
    state._metadata = OrderedDict({"": {"version": 1}})
    write(tmp_path / "weights.pt", state, DATA)
    read = read_tensors(tmp_path / "weights.pt")
    assert list(read) == ["first", "second"]
    np.testing.assert_array_equal(read["second"], [4, 5])


def archive_of(path, pickled, compression=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, data in members.items():
            archive.writestr(f"archive/data/{name}", data)


def test_a_small_file_cannot_ask_for_much_memory(tmp_path):
    huge = 1 << 34
    write(tmp_path / "expanded.pt", tensor((huge,), (0,), count=1), DATA)
    with pytest.raises(TorchFileError, match=r"expanded\.pt.*times the file's size"):
        load_torch_file(tmp_path / "expanded.pt")
    write(tmp_path / "repeated.pt", [tensor((6,), (1,)) for _ in range(400)], DATA)
    whole = load_torch_file(tmp_path / "repeated.pt")
    assert len(whole) == 400
    write(tmp_path / "copies.pt", [tensor((3000,), (1,), count=3000) for _ in range(60)], b"\0" * 12_000)
    with pytest.raises(TorchFileError, match="times the file's size"):
        load_torch_file(tmp_path / "copies.pt")
    archive_of(tmp_path / "bomb.pt", b"\x80\x02K\x00." + b"\0" * (1 << 22), zipfile.ZIP_DEFLATED)
    with pytest.raises(TorchFileError, match="compressed"):
        load_torch_file(tmp_path / "bomb.pt")
    write(tmp_path / "count.pt", tensor((6,), (1,), count=huge), DATA)
    with pytest.raises(TorchFileError, match="damaged"):
        load_torch_file(tmp_path / "count.pt")
    write(tmp_path / "empty.pt", tensor((0, 1 << 61, 1 << 61), (1, 1, 1)), DATA)
    with pytest.raises(TorchFileError, match=r"empty\.pt"):
        load_torch_file(tmp_path / "empty.pt")


@pytest.mark.parametrize(
    "pickled",
    [
        pytest.param(b"\x80\x02}r\xff\xff\xff\xff.", id="memo entry 2^32 - 1 is only a number"),
        pytest.param(b"\x80\x02" + b")" + b"\x85" * 60_000 + b"K\x01s.", id="entry set in nothing"),
        pytest.param(b"\x80\x02}" + b")" + b"\x85" * 60_000 + b"K\x01s.", id="deeply nested name"),
        pytest.param(b"\x80\x02ctorch\nFloatStorage\n(K\x04U\x01>NNNJ\xff\xff\xff\xffK\x00tb.", id="state of a type"),
        pytest.param(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(tR.", id="tensor without arguments"),
        pytest.param(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb.", id="state of a call"),
        pytest.param(b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.", id="eval"),
        pytest.param(b"\x80\x04\x8c\x02os\x8c\x06system\x93.", id="os.system by protocol 4"),
        pytest.param(b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x3f.", id="2^62 bytes"),
        pytest.param(b"(S'a'\ni__builtin__\nexit\n.", id="protocol 0 instance"),
        pytest.param(b"\x80\x02c" + b"x" * 100_000 + b"\ny\n.", id="long name"),
        pytest.param(b"\x80\x02K", id="truncated"),
        pytest.param(b"\x80\x02K\x01", id="no end"),
        pytest.param(b"\x80\x02.", id="empty stack"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_a_hostile_pickle_is_refused_or_is_plain_data(tmp_path, pickled):
    archive_of(tmp_path / "hostile.pt", pickled)
    try:
        found = load_torch_file(tmp_path / "hostile.pt")
    except TorchFileError as error:
        assert "hostile.pt" in str(error) and len(str(error)) < 1000
    else:
        assert found == {} or isinstance(found, (np.dtype, tuple))
    assert np.dtype("f4").isnative


def test_every_truncation_and_overclaiming_members_are_refused(tmp_path):
    write(tmp_path / "whole.pt", {"a": tensor((6,), (1,))}, DATA)
    whole = (tmp_path / "whole.pt").read_bytes()
    for length in range(0, len(whole), 37):
        (tmp_path / "cut.pt").write_bytes(whole[:length])
        with pytest.raises(TorchFileError, match=r"cut\.pt"):
            load_torch_file(tmp_path / "cut.pt")
    place = whole.rindex(b"archive/data/0")  # the entry of the central directory: sizes lie 26 bytes before its name
    claimed = bytearray(whole)
    claimed[place - 26 : place - 18] = struct.pack("<II", 1 << 31, 1 << 31)
    (tmp_path / "claim.pt").write_bytes(bytes(claimed))
    with pytest.raises(TorchFileError, match="more bytes than the file has"):
        load_torch_file(tmp_path / "claim.pt")


def test_what_is_written_is_read_again_and_equal_contents_are_equal_bytes(tmp_path):
    content = {
        "state": {"a": np.arange(6, dtype="f4").reshape(2, 3).T, "scalar": np.float32(2.5), "none": np.zeros((0, 3))},
        "half": np.array([1, -2.5], ml_dtypes.bfloat16),
        "big": np.arange(3, dtype=">i8"),
        "plain": (None, True, -1, 1 << 40, 0.5, "é", [1, [2]], ()),
        7: {},
    }
    first, second = (save_torch_file(tmp_path / name, content).read_bytes() for name in ("a.pt", "b.pt"))
    assert first == second
    found = load_torch_file(tmp_path / "a.pt")
    assert found["plain"] == content["plain"] and found[7] == {}
    for name, array in content["state"].items():
        np.testing.assert_array_equal(found["state"][name], array)
        assert found["state"][name].shape == array.shape and found["state"][name].dtype == array.dtype
    np.testing.assert_array_equal(found["half"].view("u2"), content["half"].view("u2"))
    np.testing.assert_array_equal(found["big"], [0, 1, 2])
    with pytest.raises(ValueError, match=r"content\.state\[1\] is function"):
        save_torch_file(tmp_path / "a.pt", {"state": [1, lambda: None]})
    with pytest.raises(ValueError, match="array of complex64"):
        save_torch_file(tmp_path / "a.pt", np.zeros(2, np.complex64))
    assert (tmp_path / "a.pt").read_bytes() == first and len(list(tmp_path.iterdir())) == 2


def test_the_layout_before_pytorch_1_6_is_read_and_checked(tmp_path):
    path, values = tmp_path / "old.pth", np.arange(6.0)
    state = OrderedDict(
        a=old_tensor("10", (3, 2), (1, 3)), b=old_tensor("9", (2,), (1,), 4), c=old_tensor("9", (1,), (1,))
    )
    write_old(path, state, [("10", values), ("9", values + 10)])
    read = read_tensors(path)
    np.testing.assert_array_equal(read["a"], values.reshape(2, 3).T)
    np.testing.assert_array_equal(read["b"], [14, 15])
    np.testing.assert_array_equal(read["c"], [10])
    whole = path.read_bytes()
    for cut in (1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(TorchFileError):
            load_torch_file(path)
    for storages in ([("10", values)], [("10", values[:5]), ("9", values)], [("10", values), ("11", values)]):
        write_old(path, state, storages)
        with pytest.raises(TorchFileError):
            load_torch_file(path)
    write_old(path, {"a": old_tensor("1", (2**40,), (1,), count=2**40)}, [])
    with pytest.raises(TorchFileError):
        load_torch_file(path)
    write_old(path, [Named(os.system.__module__, "system", ("touch x",))], [])
    with pytest.raises(TorchFileError, match="only tensors"):
        load_torch_file(path)


def test_numpy_numbers_are_read_and_other_numpy_objects_are_not(tmp_path):
    write(tmp_path / "a.pt", ({"n": np.int64(82), "x": np.float32(0.5), "b": np.bool_(True)}, tensor((6,), (1,))), DATA)
    numbers, values = load_torch_file(tmp_path / "a.pt")
    assert numbers == {"n": 82, "x": 0.5, "b": True} and values.shape == (6,)
    for stranger in (np.array([1, 2]), np.datetime64("2020-01-01"), np.array([{}], object)[0:1]):
        write(tmp_path / "a.pt", {"n": stranger}, DATA)
        with pytest.raises(TorchFileError):
            load_torch_file(tmp_path / "a.pt")
