"""Files as torch writes them, made of opcodes one by one, without torch: of both formats, whole, broken and hostile."""
import io
import pickle
import struct
import zipfile

import numpy as np

STORAGES = {"f4": "FloatStorage", "f8": "DoubleStorage", "f2": "HalfStorage", "i8": "LongStorage", "?": "BoolStorage",
            "u2": "BFloat16Storage"}  # u2: the upper halves of float32


class Global:
    """``module.name``, called with arguments if there are any."""

    def __init__(self, module, name, *arguments, call=False):
        self.module, self.name, self.arguments, self.call = module, name, arguments, call or bool(arguments)


class _Stored(tuple):
    """What is given to persistent_load."""


def emit(value, out):
    """A value as opcodes of protocol 2."""
    if isinstance(value, Global):
        out.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())
        if value.call:
            emit(tuple(value.arguments), out)
            out.write(pickle.REDUCE)
    elif isinstance(value, _Stored):
        emit(tuple(value), out)
        out.write(pickle.BINPERSID)
    elif isinstance(value, dict):
        out.write(pickle.EMPTY_DICT + pickle.MARK)
        for key, one in value.items():
            emit(key, out)
            emit(one, out)
        out.write(pickle.SETITEMS)
    elif isinstance(value, (tuple, list)):
        out.write(pickle.MARK)
        for one in value:
            emit(one, out)
        out.write(pickle.TUPLE if isinstance(value, tuple) else pickle.LIST)
    elif isinstance(value, str):
        data = value.encode()
        out.write(pickle.BINUNICODE + struct.pack("<I", len(data)) + data)
    elif value is None or isinstance(value, bool):
        out.write({None: pickle.NONE, True: pickle.NEWTRUE, False: pickle.NEWFALSE}[value])
    elif isinstance(value, (int, np.integer)):
        value = int(value)
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        out.write(pickle.LONG1 + bytes([len(data)]) + data)
    elif isinstance(value, float):
        out.write(pickle.BINFLOAT + struct.pack(">d", value))
    else:
        raise TypeError(type(value))


def dumps(value):
    """The whole pickle."""
    out = io.BytesIO()
    out.write(pickle.PROTO + b"\x02")
    emit(value, out)
    out.write(pickle.STOP)
    return out.getvalue()


def _tensors(value, storages, legacy):
    """Arrays replaced by the calls that rebuild them."""
    if isinstance(value, dict):
        return {key: _tensors(one, storages, legacy) for key, one in value.items()}
    if isinstance(value, (list, tuple)) and not isinstance(value, Global):
        return type(value)(_tensors(one, storages, legacy) for one in value)
    if not isinstance(value, np.ndarray):
        return value
    turned = value.ndim == 2 and value.flags.f_contiguous and not value.flags.c_contiguous
    flat = (value.T if turned else value).ravel()
    key = str(len(storages))
    storages[key] = flat
    name = STORAGES["?" if value.dtype == bool else value.dtype.str[1:]]
    stored = _Stored(("storage", Global("torch", name), key, "cpu", flat.size, *([None] if legacy else [])))
    steps = [step // value.itemsize for step in value.strides]
    return Global("torch._utils", "_rebuild_tensor_v2", stored, 0, tuple(value.shape), tuple(steps), False,
                  Global("collections", "OrderedDict", call=True))


def write_zip(path, value):
    """As torch 1.6 and later."""
    storages = {}
    data = dumps(_tensors(value, storages, False))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", "little")
        for key, flat in storages.items():
            archive.writestr(f"archive/data/{key}", flat.tobytes())
        archive.writestr("archive/version", "3\n")
    return path


def write_legacy(path, value):
    """As torch before 1.6."""
    storages = {}
    data = dumps(_tensors(value, storages, True))
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    with open(path, "wb") as file:
        for each in (dumps(0x1950A86A20F9469CFC6C), dumps(1001), dumps(system), data, dumps(list(storages))):
            file.write(each)
        for flat in storages.values():
            file.write(struct.pack("<q", flat.size) + flat.tobytes())
    return path
