"""Named network weights in safetensors files: bundled, cached or anywhere; checked before they are believed.

A file holds the tensors of one network under the names of its parameters (``params/conv_in/kernel``) and, as JSON under
the key ``info`` of its metadata, what is needed to use it: architecture and constructor arguments; of a restoration
network the noise mode and the tasks, of a diffusion prior the schedule and what it predicts, of an invertible network
the scale of the degradation; of both, where they work on latents, the autoencoder whose latents they know.
"""
import functools
import hashlib
import json
import math
import os
import pathlib
import secrets
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from indigo_jax.typing import Params

FOLDER = pathlib.Path(__file__).parent
MANIFEST = "manifest.json"
_PRIOR = ("schedule", "prediction")
_RESTORATION = ("noise", "tasks")
_INN = ("scale",)
_KINDS = {"RestorationUNet": _RESTORATION, "ADMUNet": _PRIOR, "DDPMUNet": _PRIOR, "KerasUNet": _PRIOR,
          "LatentUNet": _PRIOR, "GuidanceINN": _INN, "TinyAutoencoder": (), "AutoencoderKL": ()}
ARCHITECTURES = tuple(_KINDS)
_SUFFIX = ".safetensors"
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib", ".msgpack")
_DTYPES = ("F16", "BF16", "F32")
_EXPORTED = ("loss", "range", "steps", "learned_variance", "image_size", "autoencoder")  # travel from a training run
_LARGEST = 4096  # of any number among the constructor arguments


class WeightsError(ValueError):
    """Weights that cannot be found, read, trusted or written: one line with the file, what is wrong and what to do."""


class Entry(NamedTuple):
    """One row of :func:`available`.

    Attributes:
        name: what :func:`load` takes.
        path: the file.
        source: "bundled" or "cache".
        size: bytes on disk; None where a bundled file is missing.
        sha256: what the manifest promises; None in the cache.
    """

    name: str
    path: pathlib.Path
    source: str
    size: int | None
    sha256: str | None


def load(name_or_path):
    """A network with its weights: an existing file, else a bundled name, else a name in the cache folder.

    Args:
        name_or_path: "indi-photo", or a ``.safetensors`` file written by :func:`save` or :func:`export`.

    Returns:
        ``(module, params, info)``: the linen module, its variables in float32, and the dict that was stored with
        them, plus ``info["sha256"]``, of the file. ``module.apply(params, x_t, t)`` restores, or predicts
        ``info["prediction"]`` where the info has a "schedule" (:func:`schedules.from_json`). For autoencoders see
        :func:`latents.load`.

    Errors:
        :class:`WeightsError` for an unknown name (the known ones are listed), a file that is damaged, is not
        safetensors (pickles are never opened), differs from the manifest, belongs to an unknown architecture, or whose
        tensors are not exactly those of the network, all finite.
    """
    import jax.numpy as jnp
    module, tensors, info = _read(*find(name_or_path))
    return module, _nest({key: jnp.asarray(value) for key, value in tensors.items()}), info


def verify(name_or_path) -> dict:
    """Check a file as :func:`load` does, without starting a device.

    Returns:
        ``{"name", "path", "sha256", "size", "tensors", "parameters"}``.

    Errors:
        :class:`WeightsError`, as :func:`load`.
    """
    path, expected = find(name_or_path)
    _, tensors, info = _read(path, expected)
    return {"name": info.get("name", path.stem), "path": str(path), "sha256": info["sha256"],
            "size": path.stat().st_size, "tensors": len(tensors),
            "parameters": sum(value.size for value in tensors.values())}


def save(path, params: Params, info: dict) -> None:
    """Write weights as float16 safetensors, whole or not at all.

    Args:
        path: the file, ``NAME.safetensors``; missing folders are made.
        params: a linen variables dict.
        info: JSON-able: "architecture" and "arguments" (the module's class and constructor arguments), "noise"
            (:func:`schedules.noise_to_json`) and "tasks", or for a diffusion prior "schedule"
            (:func:`schedules.to_json`), "prediction" (eps, x0 or v) and "learned_variance" where it is True; of a prior
            or an invertible network of latents "autoencoder" (:func:`latents.identity`); and whatever should travel
            with the weights.

    Errors:
        :class:`WeightsError` for another extension, params that are not those of the module, or that are not finite in
        float16, and for a folder that cannot be written.
    """
    from safetensors.numpy import save as to_bytes
    path = pathlib.Path(path)
    if path.suffix != _SUFFIX:
        raise WeightsError(f"{_show(path)}: weights are written as safetensors: name it {path.stem}{_SUFFIX}")
    tensors = {name: np.asarray(value, np.float32) for name, value in _flatten(params)}
    info = {key: value for key, value in info.items() if key != "sha256"}
    _check_info(path, info)
    module = _module(path, info, len(tensors))
    _check_shapes(path, {name: value.shape for name, value in tensors.items()}, module, info)
    with np.errstate(over="ignore"):
        tensors = {name: value.astype(np.float16, order="C") for name, value in tensors.items()}  # safetensors needs C
    _check_finite(path, tensors)
    data = to_bytes(tensors, metadata={"info": json.dumps(info, sort_keys=True)})
    _write(path, data)


def export(workdir, path, name: str | None = None) -> None:
    """The averaged parameters of the newest whole checkpoint of a training run as one weights file.

    Args:
        workdir: ``--workdir`` of ``train.indi``, ``train.diffusion``, ``train.autoencoder`` or ``train.inn``.
        path: the file to write, ``NAME.safetensors``.
        name: what it calls itself; the file's name where None.

    Errors:
        :class:`WeightsError` for a folder that is no such workdir; those of :func:`save`.
    """
    from indigo_jax import checkpoints
    try:
        config = checkpoints.read_config(workdir)
        params = checkpoints.restore_params(workdir)
        info = {key: config[key] for key in ("architecture", "arguments", *_KINDS[config["architecture"]])}
        info.update({key: config[key] for key in _EXPORTED if key in config})
        info["num_steps"] = checkpoints.latest_step(workdir)
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = f"config.json has no {error}" if isinstance(error, KeyError) else _line(error)
        raise WeightsError(f"{_show(workdir)}: not a training run with a whole checkpoint ({reason})") from error
    save(path, params, {**info, "name": name or pathlib.Path(path).stem})


def available() -> list[Entry]:
    """All names that :func:`load` knows: those of the manifest, then the files of the cache folder."""
    entries = []
    for name, row in sorted(_manifest().items()):
        path = FOLDER / row["file"]
        entries.append(Entry(name, path, "bundled", path.stat().st_size if path.is_file() else None, row["sha256"]))
    names = {entry.name for entry in entries}
    folder = cache_folder()
    for path in sorted(folder.glob(f"*{_SUFFIX}")) if folder.is_dir() else []:
        if path.is_file() and path.stem not in names:
            entries.append(Entry(path.stem, path, "cache", path.stat().st_size, None))
    return entries


def cache_folder() -> pathlib.Path:
    """``$INDIGO_CACHE``, else ``indigo`` in ``$XDG_CACHE_HOME`` or ``~/.cache``: weights put there have names, too."""
    if os.environ.get("INDIGO_CACHE"):
        return pathlib.Path(os.environ["INDIGO_CACHE"]).expanduser()
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "indigo"


def update_manifest(folder=None) -> dict:
    """Check every bundled file and write ``manifest.json`` anew; run by ``python -m indigo_jax.weights``.

    Returns:
        The manifest: ``{name: {"file", "sha256", "size"}}``.
    """
    folder = FOLDER if folder is None else pathlib.Path(folder)
    manifest = {}
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        info = verify(path)
        manifest[path.stem] = {"file": path.name, "sha256": info["sha256"], "size": info["size"]}
    _write(folder / MANIFEST, (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode())
    return manifest


def find(name_or_path) -> tuple[pathlib.Path, str | None]:
    """The file that a name or path means, and the sha256 that the manifest promises (None: nothing is promised).

    Errors:
        :class:`WeightsError` when there is none: the known names are listed.
    """
    text = os.fspath(name_or_path)
    path = pathlib.Path(text)
    if path.is_file():
        return path, None
    entries = {entry.name: entry for entry in available()}
    entry = entries.get(text)
    if entry is None:
        known = f"known names: {', '.join(entries)}" if entries else "no weights are bundled or in the cache"
        if path.is_dir():
            raise WeightsError(f"{_show(path)}: a folder, not a weights file; of a training run, make one with: "
                               "indigo weights convert FOLDER -o NAME.safetensors --from indigo")
        kind = "no such weights file" if path.suffix or len(path.parts) > 1 else "no weights of this name"
        raise WeightsError(f"{_show(path)}: {kind}; give a {_SUFFIX} file or a name ({known})")
    if entry.size is None:
        raise WeightsError(f"{entry.name}: the bundled file {entry.path.name} is missing; install the package again")
    return entry.path, entry.sha256


# ------------------------------------------------------------------------------------------------ reading

def _read(path, expected_sha256):
    """Module, float32 numpy tensors by name, info: everything checked before a tensor is loaded."""
    from safetensors import SafetensorError, safe_open
    _refuse_pickle(path)
    try:
        with open(path, "rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        if expected_sha256 not in (None, sha256):
            raise WeightsError(f"{_show(path)}: its sha256 is {sha256[:12]}..., the manifest says "
                               f"{expected_sha256[:12]}...: a damaged or changed file; install the package again")
        with safe_open(path, framework="numpy") as file:
            info = _parse_info(path, file.metadata())
            slices = {key: file.get_slice(key) for key in file.keys()}
            _check_info(path, info)
            module = _module(path, info, len(slices))
            _check_shapes(path, {key: tuple(piece.get_shape()) for key, piece in slices.items()}, module, info)
            for key, piece in slices.items():
                if piece.get_dtype() not in _DTYPES:
                    raise WeightsError(f"{_show(path)}: {key} is {piece.get_dtype()}, not a float of 16 or 32 bits")
            tensors = {key: np.asarray(file.get_tensor(key)).astype(np.float32) for key in slices}
    except (SafetensorError, OSError, MemoryError) as error:
        reason = _line(getattr(error, "strerror", None) or error)
        raise WeightsError(f"{_show(path)}: not a safetensors file, or a damaged one ({reason}); copy it again"
                           ) from error
    _check_finite(path, tensors)
    return module, tensors, {**info, "sha256": sha256}


def _refuse_pickle(path):
    try:
        with open(path, "rb") as stream:
            head = stream.read(4).ljust(4, b"\0")
    except OSError as error:
        raise WeightsError(f"{_show(path)}: cannot be opened ({error.strerror})") from error
    pickled = head[:1] == b"\x80" and head[1] <= 5 and head[2:] != b"\0\0"  # zeros: the length of a safetensors header
    if path.suffix.lower() in _PICKLES or head == b"PK\3\4" or pickled:
        raise WeightsError(f"{_show(path)}: a pickle or archive, which can run code when it is opened: refused; only "
                           f"{_SUFFIX} files are read")


def _parse_info(path, metadata):
    try:
        info = json.loads((metadata or {})["info"])
    except KeyError:
        raise WeightsError(f"{_show(path)}: a safetensors file without 'info' in its metadata: not written by this "
                           "package") from None
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{_show(path)}: 'info' in its metadata is not JSON ({_line(error)})") from error
    return info


def _check_info(path, info):
    if not isinstance(info, dict) or not isinstance(info.get("arguments", {}), dict):
        raise WeightsError(f"{_show(path)}: 'info' in its metadata is not a table of names and values")
    _check_has(path, info, ("architecture", "arguments"))
    if info["architecture"] not in ARCHITECTURES:
        raise WeightsError(f"{_show(path)}: unknown architecture {_brief(info['architecture'])}; this version knows "
                           f"{', '.join(ARCHITECTURES)}")
    needed = _KINDS[info["architecture"]]
    _check_has(path, info, needed)
    if needed is _RESTORATION:
        _check_restoration(path, info)
    elif needed is _PRIOR:
        _check_prior(path, info)
    elif needed is _INN and (not isinstance(info["scale"], int) or info["scale"] < 1):
        raise WeightsError(f"{_show(path)}: 'scale' in its info is {_brief(info['scale'])}, not a whole number from 1")
    if "autoencoder" in info:
        _check_autoencoder(path, info["autoencoder"])


def _check_restoration(path, info):
    noise = info["noise"]
    if (not isinstance(noise, dict) or not isinstance(noise.get("name"), str)
            or not isinstance(noise.get("eps", 0.0), (int, float)) or not math.isfinite(noise.get("eps", 0.0))):
        raise WeightsError(f"{_show(path)}: the noise mode {_brief(noise)} in its info is not a name and a level")
    if not isinstance(info["tasks"], list) or not all(isinstance(task, str) for task in info["tasks"]):
        raise WeightsError(f"{_show(path)}: 'tasks' in its info is {_brief(info['tasks'])}, not a list of names")


def _check_autoencoder(path, autoencoder):
    """Of a prior or an invertible network: whose latents it knows."""
    values = [autoencoder.get(key) for key in ("name", "sha256")] if isinstance(autoencoder, dict) else [None]
    if not all(isinstance(value, str) and value.isprintable() for value in values):
        raise WeightsError(f"{_show(path)}: 'autoencoder' in its info is {_brief(autoencoder)}, not a name and a "
                           "sha256")


def _check_has(path, info, needed):
    missing = [key for key in needed if key not in info]
    if missing:
        raise WeightsError(f"{_show(path)}: its info lacks {', '.join(missing)}")


def _check_prior(path, info):
    from indigo_jax import losses, schedules
    schedule = info["schedule"]
    try:
        if not isinstance(schedule, dict) or "name" not in schedule:
            raise ValueError("it has no name")
        schedules.to_json(**schedule)
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{_show(path)}: the schedule {_brief(schedule)} in its info is none of ours "
                           f"({_line(error)})") from error
    if info["prediction"] not in losses.PREDICTIONS:
        raise WeightsError(f"{_show(path)}: 'prediction' in its info is {_brief(info['prediction'])}, not one of "
                           f"{', '.join(losses.PREDICTIONS)}")
    if not isinstance(info.get("learned_variance", False), bool):
        raise WeightsError(f"{_show(path)}: 'learned_variance' in its info is {_brief(info['learned_variance'])}, not "
                           "true or false")


def _module(path, info, count):
    """The network of the info; its arguments are bounded, so that a forged file cannot ask for a monster."""
    from indigo_jax import models
    arguments = {}
    for key, value in info["arguments"].items():
        numbers = value if isinstance(value, (list, tuple)) else [value]
        if len(numbers) > 16 or any(isinstance(x, (int, float)) and not 0 <= x <= _LARGEST for x in numbers) or not all(
                isinstance(x, (int, float, str)) for x in numbers):
            raise WeightsError(f"{_show(path)}: the argument {_brief(key)} = {_brief(value)} in its info is not one of "
                               f"{info['architecture']}")
        arguments[key] = tuple(value) if isinstance(value, (list, tuple)) else value
    try:
        if "dtype" in arguments:
            arguments["dtype"] = np.dtype(_float_type(arguments["dtype"]))
        module = getattr(models, info["architecture"])(**arguments)
        for name in ("num_res_blocks", "num_blocks", "encoder_blocks", "levels", "layers_per_block"):
            if getattr(module, name, 0) > count:
                raise ValueError(f"{getattr(module, name)} blocks in {count} tensors")
    except (TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{_show(path)}: arguments that {info['architecture']} does not take "
                           f"({_line(error)})") from error
    return module


def _float_type(name):
    from jax import numpy as jnp
    types = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}
    if name not in types:
        raise ValueError(f"dtype {name!r}: use one of {', '.join(types)}")
    return types[name]


def _check_shapes(path, shapes, module, info):
    """The tensors are exactly those of ``module.init``: same names, same shapes. Nothing is computed."""
    try:
        expected = _expected_shapes(module, "autoencoder" in info, info.get("learned_variance", False))
    except Exception as error:  # whatever a network of senseless arguments raises
        raise WeightsError(f"{_show(path)}: no {type(module).__name__} can be made of the arguments in its info "
                           f"({_line(error)})") from error
    missing, extra = sorted(expected.keys() - shapes.keys()), sorted(shapes.keys() - expected.keys())
    if missing or extra:
        said = [f"{len(names)} {kind} ({', '.join(map(_brief, names[:3]))}{', ...' if len(names) > 3 else ''})"
                for names, kind in ((missing, "missing"), (extra, "unknown")) if names]
        raise WeightsError(f"{_show(path)}: its tensors are not those of its {type(module).__name__}: "
                           f"{' and '.join(said)}")
    for key, shape in expected.items():
        if tuple(shapes[key]) != shape:
            raise WeightsError(f"{_show(path)}: {key} has the shape {list(shapes[key])}, the network needs "
                               f"{list(shape)}")


@functools.lru_cache(maxsize=16)
def _expected_shapes(module, of_latents, learned_variance):
    import jax
    import jax.numpy as jnp
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in _inputs(module, of_latents, learned_variance)]
    variables = jax.eval_shape(lambda *inputs: module.init(jax.random.key(0), *inputs), *inputs)
    return {name: tuple(leaf.shape) for name, leaf in _flatten(variables)}


def _inputs(module, of_latents, learned_variance):
    """Shapes that a network can be called with."""
    def batch(side, channels=3):
        return 1, side, side, channels

    if hasattr(module, "undecimated"):  # an invertible network, of a picture or latents, and the measurement in pixels
        return batch(16 if module.undecimated else 16 * 2**module.levels, module.channels), batch(16)
    if hasattr(module, "latent_channels"):  # an autoencoder
        return batch(module.factor, module.out_channels),
    if hasattr(module, "context_dim"):
        x = batch(2 ** len(module.block_out_channels), module.in_channels)
        return (x, (1,), (1, 2, module.context_dim)) if module.context_dim else (x, (1,))
    levels = len(getattr(module, "multipliers", None) or module.widths)
    side = max(16, getattr(module, "patch_size", 1) * 2 ** (levels - 1))
    x = batch(side, module.out_channels // (2 if learned_variance else 1) if of_latents else 3)
    return (x, (1,), x) if getattr(module, "condition_on_y", False) else (x, (1,))


def _check_finite(path, tensors):
    for key, value in tensors.items():
        if not np.isfinite(value).all():
            raise WeightsError(f"{_show(path)}: {key} holds NaN or infinity: the weights are damaged")


# ------------------------------------------------------------------------------------------------ small things

def _manifest():
    try:
        manifest = json.loads((FOLDER / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise WeightsError(f"{FOLDER / MANIFEST}: damaged ({_line(error)}); install the package again") from error
    return manifest


def _flatten(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}/")
        else:
            yield prefix + key, value


def _nest(tensors):
    tree = {}
    for name, value in tensors.items():
        *folders, leaf = name.split("/")
        branch = tree
        for folder in folders:
            branch = branch.setdefault(folder, {})
        branch[leaf] = value
    return tree


def _write(path, data):
    temporary = path.parent / f".indigo-{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        raise WeightsError(f"{_show(path)}: cannot be written ({error.strerror}); check the folder and its free space"
                           ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _show(path):
    text = os.fspath(path)
    return text if text.isprintable() else repr(text)


def _line(text):
    return " ".join(str(text).split())[:200] or type(text).__name__


def _brief(value):
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
