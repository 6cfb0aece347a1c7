"""Files of ``torch.save`` without torch, and without running anything that they say.

Such a file is a pickle, a program that may call whatever it names. Here only names on a short list mean something, and
each means a function of this file that makes an inert value; any other name ends the reading.
"""
import collections
import io
import os
import pickle
import struct
import zipfile
import zlib
from typing import Any, NamedTuple

import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C  # of files before torch 1.6
_STORAGES = {"DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "BFloat16Storage": "bf16",
             "LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1",
             "BoolStorage": "?", "UntypedStorage": "u1"}
_DTYPES = {"float64": "f8", "float32": "f4", "float16": "f2", "bfloat16": "bf16", "int64": "i8", "int32": "i4",
           "int16": "i2", "int8": "i1", "uint8": "u1", "bool": "?"}
_INERT = ("pytorch_lightning", "lightning", "lightning_fabric", "omegaconf", "argparse", "torch.optim", "typing",
          "numpy", "pathlib", "torchmetrics", "easydict", "yacs", "ml_collections", "addict", "_codecs", "enum")


class DamagedFile(ValueError):
    """A file that is not whole, or not what it seems."""


class RefusedPickle(ValueError):
    """A pickle that names what it would run, or something that is not known to be harmless."""


class Tensor(NamedTuple):
    """A tensor that is not read yet; :meth:`array` reads it."""

    storage: Any
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def kind(self) -> str:
        """``"f"`` for floating-point numbers, else that of numpy."""
        return "f" if self.storage.dtype == "bf16" else np.dtype(self.storage.dtype).kind

    def array(self) -> np.ndarray:
        """The values: float32 for any floating-point type, C order.

        Errors:
            :class:`DamagedFile` where it asks for values outside of its storage.
        """
        values = self.storage.read()
        last = self.offset + sum((side - 1) * step for side, step in zip(self.shape, self.strides))
        empty = 0 in self.shape
        if min((self.offset, *self.shape, *self.strides), default=0) < 0 or (not empty and last >= len(values)) or (
                np.prod(self.shape, dtype=object) > len(values)):
            raise DamagedFile(f"a tensor of the shape {list(self.shape)} lies outside of its {len(values)} values")
        if empty:
            return np.zeros(self.shape, np.float32)
        view = np.lib.stride_tricks.as_strided(values[self.offset:], self.shape,
                                               [step * values.itemsize for step in self.strides], writeable=False)
        return as_float(np.ascontiguousarray(view).reshape(self.shape))


class _Storage:
    """Numbers of one type, somewhere in the file."""

    def __init__(self, dtype, count, fetch):
        self.dtype, self.count, self.fetch = dtype, count, fetch

    def read(self):
        data, order = self.fetch(self)
        dtype = np.dtype("u2" if self.dtype == "bf16" else self.dtype).newbyteorder(order)
        if len(data) != self.count * dtype.itemsize:
            raise DamagedFile(f"{len(data)} bytes where {self.count} values of {dtype.itemsize} bytes are promised")
        values = np.frombuffer(data, dtype)
        return widen_bfloat16(values) if self.dtype == "bf16" else values


class Inert:
    """What stands for an object that is of no use here."""

    def __init__(self, *_, **__):
        pass

    def __setstate__(self, state):
        del state

    def append(self, _):
        """Nothing."""

    def __setitem__(self, key, value):
        pass


def widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    """bfloat16, given as 16-bit integers, as the same numbers in float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def as_float(values: np.ndarray) -> np.ndarray:
    """Floating-point values as float32; others as they are."""
    return values.astype(np.float32) if values.dtype.kind == "f" else values


def looks_like(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a zip archive or a pickle of protocol 2 or later."""
    return head[:4] == b"PK\3\4" or (head[:1] == b"\x80" and 2 <= head[1] <= 5 and head[2:4] != b"\0\0")


def read(path) -> Any:
    """What ``torch.save`` was given: dicts, lists and numbers, with :class:`Tensor` for tensors.

    Args:
        path: a file of any version of torch: a zip archive, or before 1.6 a row of pickles.

    Errors:
        :class:`DamagedFile`, or :class:`RefusedPickle` for one that names anything but tensors and plain containers;
        nothing was run.
    """
    with open(path, "rb") as stream:
        head = stream.read(4)
    try:
        return _read_zip(path) if head == b"PK\3\4" else _read_legacy(path)
    except (DamagedFile, RefusedPickle, MemoryError):
        raise
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise DamagedFile(f"not a whole archive ({error}); it may have been downloaded in part") from error
    except Exception as error:  # a broken pickle fails in any way
        reason = str(error) or type(error).__name__
        raise DamagedFile(f"not a whole file of torch ({reason}); it may have been downloaded in part") from error


def _read_zip(path):
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        main = next((name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")), None)
        if any(name.endswith("constants.pkl") for name in entries):
            raise DamagedFile("a TorchScript program; save the state_dict of its network")
        if main is None:
            raise DamagedFile("an archive without data.pkl")
        folder = main.removesuffix("data.pkl")
        big = f"{folder}byteorder" in entries and archive.read(f"{folder}byteorder") == b"big"

        def fetch(storage):
            return _stored(path, entries.get(f"{folder}data/{storage.key}"), storage.key), ">" if big else "<"

        return _Unpickler(io.BytesIO(archive.read(main)), fetch).load()


def _stored(path, info, key):
    """The bytes of an entry, which torch does not compress."""
    if info is None or info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise DamagedFile(f"the values of data/{key} are missing")
    with open(path, "rb") as stream:
        stream.seek(info.header_offset)
        head = stream.read(30)
        stream.seek(sum(struct.unpack("<HH", head[26:])) if len(head) == 30 else 0, 1)
        data = stream.read(min(info.file_size, os.path.getsize(path)))
    if zlib.crc32(data) != info.CRC:
        raise DamagedFile(f"the values of data/{key} are damaged; copy the file again")
    return data


def _read_legacy(path):
    storages = {}

    def fetch(storage):
        start, count = storages[storage.key]
        itemsize = 2 if storage.dtype == "bf16" else np.dtype(storage.dtype).itemsize
        with open(path, "rb") as file:
            file.seek(start)
            return file.read(count * itemsize), "<"

    with open(path, "rb") as stream:
        if _Unpickler(stream, fetch).load() != _MAGIC:
            raise DamagedFile("a pickle, but not one of torch")
        _Unpickler(stream, fetch).load()  # protocol
        if not _Unpickler(stream, fetch).load().get("little_endian", True):
            raise DamagedFile("a file in big-endian order; save it again with a newer torch")
        reader = _Unpickler(stream, fetch)
        found, keys = reader.load(), _Unpickler(stream, fetch).load()
        for key in keys:
            count = struct.unpack("<q", stream.read(8))[0]
            dtype = reader.storages[key].dtype
            storages[key] = stream.tell(), count
            stream.seek(count * (2 if dtype == "bf16" else np.dtype(dtype).itemsize), 1)
        if stream.tell() > os.path.getsize(path):
            raise DamagedFile("it ends before its last tensor; it may have been downloaded in part")
    return found


class _Unpickler(pickle.Unpickler):
    """Knows no name but those below."""

    def __init__(self, stream, fetch):
        super().__init__(stream, encoding="latin-1")
        self.fetch, self.storages = fetch, {}

    def find_class(self, module, name):
        known = self._known().get((module, name))
        if known is not None:
            return known
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _Named(_STORAGES[name])
        if module == "torch" and name in _DTYPES:
            return _Named(_DTYPES[name])
        if any(module == inert or module.startswith(f"{inert}.") for inert in _INERT):
            return type(f"Inert_{name}", (Inert,), {})
        raise RefusedPickle(f"it names {module}.{name}, which is no tensor and might run code: refused, nothing was "
                            "run. Save the state_dict alone, best as .safetensors")

    @staticmethod
    def _known():
        def tensor(storage, offset, size, stride, *_):
            return Tensor(storage, int(offset), tuple(map(int, size)), tuple(map(int, stride)))

        def old_tensor(storage, offset, size, stride):
            return tensor(storage, offset, size, stride)

        def parameter(data, *_):
            return data

        return {("torch._utils", "_rebuild_tensor_v2"): tensor, ("torch._utils", "_rebuild_tensor"): old_tensor,
                ("torch._utils", "_rebuild_parameter"): parameter,
                ("torch._utils", "_rebuild_parameter_with_state"): parameter,
                ("torch._tensor", "_rebuild_from_type_v2"): lambda function, _, arguments, state: function(*arguments),
                ("torch", "Size"): lambda sizes=(): tuple(sizes), ("torch", "device"): lambda *_: "cpu",
                ("torch", "Tensor"): _Named("tensor"), ("torch.nn.parameter", "Parameter"): _Named("parameter"),
                ("torch.serialization", "_get_layout"): lambda *_: "strided",
                ("collections", "OrderedDict"): collections.OrderedDict,
                ("collections", "defaultdict"): lambda *_: {}, ("collections", "Counter"): lambda *_: {},
                **{(module, name): kind for module in ("builtins", "__builtin__") for name, kind in (
                    ("set", set), ("frozenset", frozenset), ("dict", dict), ("list", list), ("tuple", tuple),
                    ("int", int), ("float", float), ("bool", bool), ("str", _Named("str")))}}

    def persistent_load(self, pid):
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], _Named):
            raise DamagedFile(f"a storage that is described as {str(pid)[:60]}")
        if len(pid) > 5 and pid[5] is not None:
            raise DamagedFile("storages that share their values in an old way; save the state_dict again")
        key = str(pid[2])
        if key not in self.storages:
            storage = _Storage(str(pid[1]), int(pid[4]), self.fetch)
            storage.key = key
            self.storages[key] = storage
        return self.storages[key]


class _Named(str):
    """A type by its name; calling it gives nothing."""

    def __call__(self, *_):
        return None
