"""Writes PyTorch checkpoints without PyTorch, well-formed ones and hostile ones."""

import io
import pickle
import struct
import zipfile

import numpy as np


class Named:
    """Pickles as the global `module.name` called with `arguments`."""

    def __init__(self, module, name, arguments):
        self.stream = module, name, arguments


class Pickler(pickle._Pickler):
    """Writes storages as persistent ids and `Named` as a call, as torch.save does."""

    def persistent_id(self, item):
        if isinstance(item, tuple) and item and item[0] == "storage":
            return item
        return None

    def save(self, item, save_persistent_id=True):
        if isinstance(item, Named):
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


def write(path, content, data=b"", **more):
    """A zip checkpoint whose storage 0 is `data`; `more` are further storages by key (with a leading underscore)."""
    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump(content)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", stream.getvalue())
        archive.writestr("archive/byteorder", "little")
        for key, values in {"_0": data, **more}.items():
            archive.writestr(f"archive/data/{key[1:]}", values)


def tensor(size, stride, offset=0, count=6, kind="FloatStorage", key="0"):
    storage = ("storage", Named("torch", kind, None), key, "cpu", count)
    return Named("torch._utils", "_rebuild_tensor_v2", (storage, offset, size, stride, False, None))


def write_arrays(path, state, wrap=lambda tensors: tensors):
    """A zip checkpoint of float32 arrays by name; `wrap` puts the tensors into what the file holds."""
    tensors, data = {}, {}
    for index, (name, array) in enumerate(state.items()):
        strides = tuple(int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim))
        tensors[name] = tensor(array.shape, strides, 0, array.size, key=str(index + 1))
        data[f"_{index + 1}"] = np.ascontiguousarray(array, "<f4").tobytes()
    write(path, wrap(tensors), **data)


def write_old(path, content, storages, magic=0x1950A86A20F9469CFC6C):
    """The layout of PyTorch before 1.6; `storages` are (key, values)."""
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    with open(path, "wb") as stream:
        for part in (magic, 1001, machine, content, [key for key, _ in storages]):
            Pickler(stream, protocol=2).dump(part)
        for _, values in storages:
            stream.write(struct.pack("<q", values.size) + values.astype("<f4").tobytes())


def old_tensor(key, size, stride, offset=0, count=6):
    storage = ("storage", Named("torch", "FloatStorage", None), key, "cpu", count, None)
    return Named("torch._utils", "_rebuild_tensor_v2", (storage, offset, size, stride, False, {}))
