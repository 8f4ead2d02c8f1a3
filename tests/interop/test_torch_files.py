"""The restricted reader of PyTorch files: refuses code, survives damage, reads views."""

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest

from spresso_jax.interop.foreign_tensors import read_tensors
from spresso_jax.interop.torch_files import TorchFileError, load_torch_file


class _Named:
    """Pickles as the global `module.name` called with `arguments`."""

    def __init__(self, module, name, arguments):
        self.stream = module, name, arguments


class _Pickler(pickle._Pickler):
    """Writes storages as persistent ids and `_Named` as a call, as torch.save does."""

    def persistent_id(self, item):
        if isinstance(item, tuple) and item and item[0] == "storage":
            return item
        return None

    def save(self, item, save_persistent_id=True):
        if isinstance(item, _Named):
            module, name, arguments = item.stream
            self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
            if arguments is not None:
                super().save(arguments)
                self.write(pickle.REDUCE)
            return
        if isinstance(item, tuple) and item and item[0] == "storage":
            self.write(pickle.MARK)
            for part in item:
                self.save(part)
            self.write(pickle.TUPLE + pickle.BINPERSID)
            return
        super().save(item, save_persistent_id)


def write(path, content, data=b""):
    stream = io.BytesIO()
    _Pickler(stream, protocol=2).dump(content)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", stream.getvalue())
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", data)


def tensor(size, stride, offset=0, count=6, kind="FloatStorage"):
    storage = ("storage", _Named("torch", kind, None), "0", "cpu", count)
    return _Named("torch._utils", "_rebuild_tensor_v2", (storage, offset, size, stride, False, None))


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
    write(tmp_path / "a.pt", [_Named(os.system.__module__, "system", (f"touch {target}",))])
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
