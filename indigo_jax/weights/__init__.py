"""Named network weights in safetensors files: bundled, cached or anywhere; checked before they are believed.

A file holds the tensors of one network under the names of its parameters (``params/conv_in/kernel``) and, as JSON under
the key ``info`` of its metadata, what is needed to use it: architecture and constructor arguments; of a restoration
network the noise mode and the tasks, of a diffusion prior the schedule and what it predicts, of an invertible network
the scale of the degradation; of both, where they work on latents, the autoencoder whose latents they know.
"""
import json
import os
import pathlib
import secrets
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from indigo_jax.spelling import near
from indigo_jax.typing import Params
from indigo_jax.weights import checking
from indigo_jax.weights.checking import SUFFIX, WeightsError, line, show
from indigo_jax.weights.registry import register

__all__ = ["ARCHITECTURES", "DTYPES", "Entry", "FOLDER", "KINDS", "MANIFEST", "WeightsError", "available",
           "cache_folder", "export", "find", "info_of", "kind_of", "learned", "load", "register", "save",
           "update_manifest", "verify"]

FOLDER = pathlib.Path(__file__).parent
MANIFEST = "manifest.json"
ARCHITECTURES, KINDS = tuple(checking.ARCHITECTURES), checking.KINDS
DTYPES = ("float16", "bfloat16", "float32")  # that files are written in
# what travels from a training run
_EXPORTED = ("kind", "loss", "range", "steps", "learned_variance", "sigma_data", "image_size", "autoencoder",
             "condition")


class Entry(NamedTuple):
    """One row of :func:`available`.

    Attributes:
        name: what :func:`load` takes.
        path: the file.
        source: "bundled" or "cache".
        size: bytes on disk; None where a bundled file is missing.
        sha256: what the manifest promises; None in the cache.
        learned: what it has learned, in words; "" where that is not known.
    """

    name: str
    path: pathlib.Path
    source: str
    size: int | None
    sha256: str | None
    learned: str = ""


def load(name_or_path, kind: str | None = None):
    """A network with its weights: an existing file, else a bundled name, else a name in the cache folder.

    Args:
        name_or_path: "indi-photo", or a ``.safetensors`` file written by :func:`save` or :func:`export`.
        kind: of :data:`KINDS`; None takes any.

    Returns:
        ``(module, params, info)``: the linen module, its variables in float32, and the dict that was stored with
        them, plus ``info["sha256"]``, of the file. ``module.apply(params, x_t, t)`` restores, or predicts
        ``info["prediction"]`` where the info has a "schedule" (:func:`schedules.from_json`). For autoencoders see
        :func:`latents.load`.

    Errors:
        :class:`WeightsError` for weights of another kind, a kind that there is not, an unknown name (the known ones are
        listed), a file that is damaged, is not safetensors (pickles are never opened), differs from the manifest,
        belongs to an unknown architecture, or whose tensors are not exactly those of the network, all finite.
    """
    import jax
    if kind is not None and kind not in KINDS:
        raise WeightsError(f"unknown kind {kind!r}{near(kind, KINDS)}; there are {', '.join(KINDS)}")
    module, tensors, info = checking.read(*find(name_or_path))
    if kind is not None and info["kind"] != kind:
        raise WeightsError(f"{show(name_or_path)}: {KINDS[info['kind']]}, where {KINDS[kind].partition(' (')[0]} is "
                           "needed; see: indigo weights list")
    return module, jax.device_put(_nest(tensors)), info


def kind_of(name_or_path) -> str | None:
    """The kind of a file, of :data:`KINDS`, by its head alone; None where :func:`load` would refuse it."""
    try:
        return checking.kind_of(info_of(name_or_path) or {})
    except (WeightsError, ValueError, KeyError, TypeError):
        return None


def info_of(name_or_path) -> dict | None:
    """What a file says of itself in its head, unchecked; None where it says nothing."""
    from safetensors import SafetensorError, safe_open
    try:
        with safe_open(find(name_or_path)[0], framework="numpy") as file:
            info = json.loads((file.metadata() or {})["info"])
        return info if isinstance(info, dict) else None
    except (WeightsError, SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None


def verify(name_or_path) -> dict:
    """Check a file as :func:`load` does, without starting a device.

    Returns:
        ``{"name", "path", "sha256", "size", "tensors", "parameters"}``.

    Errors:
        :class:`WeightsError`, as :func:`load`.
    """
    path, expected = find(name_or_path)
    _, tensors, info = checking.read(path, expected, every_shape=True)
    return {"name": info.get("name", path.stem), "path": str(path), "sha256": info["sha256"],
            "size": path.stat().st_size, "tensors": len(tensors),
            "parameters": sum(value.size for value in tensors.values())}


def save(path, params: Params, info: dict, *, dtype: str = "float16") -> None:
    """Write weights as safetensors, whole or not at all.

    Args:
        path: the file, ``NAME.safetensors``; missing folders are made.
        params: a linen variables dict.
        info: JSON-able: "architecture" and "arguments" (the module's class and constructor arguments), "noise"
            (:func:`paths.noise_to_json`) and "tasks", or for a diffusion prior "schedule"
            (:func:`schedules.to_json`), "prediction" (of :data:`denoisers.BY_PREDICTION`), "learned_variance" where it
            is True and "sigma_data" where it is not 0.5; of a prior or an invertible network of latents "autoencoder"
            (:func:`latents.identity`); and whatever should travel with the weights.
        dtype: of the file: float16 (11 bits, up to 65,504), bfloat16 (8 bits) or float32 (24 bits).

    Errors:
        :class:`WeightsError` for another extension, params that are not those of the module, that are not finite, or
        too large for the dtype, and for a folder that cannot be written.
    """
    import jax.numpy as jnp
    from safetensors.numpy import save as to_bytes
    path = pathlib.Path(path)
    if dtype not in DTYPES:
        raise WeightsError(f"{show(path)}: weights are written in {', '.join(DTYPES)}, not in {dtype}"
                           f"{near(dtype, DTYPES)}")
    if path.suffix != SUFFIX:
        raise WeightsError(f"{show(path)}: weights are written as safetensors: name it {path.stem}{SUFFIX}")
    if not isinstance(params, Mapping):
        raise WeightsError(f"{show(path)}: params is a {type(params).__name__}, not the variables of module.init; of "
                           "a flax.nnx or equinox network models.adapted(Class)(...) is such a module")
    tensors = {name: np.asarray(value, np.float32) for name, value in checking.flatten(params)}
    info = {key: value for key, value in info.items() if key != "sha256"}
    try:
        json.dumps(info)
    except TypeError as error:
        raise WeightsError(f"{show(path)}: its info holds what a file cannot ({line(error)}); numbers of an array are "
                           "array.tolist(), and schedules.to_json makes a schedule's") from error
    checking.check_info(path, info)
    info["kind"] = checking.kind_of(info)
    module = checking.module_of(path, info, len(tensors))
    checking.check_shapes(path, {name: value.shape for name, value in tensors.items()}, module, info)
    checking.check_finite(path, tensors)
    for name, value in tensors.items():
        if value.size and np.abs(value).max() > float(jnp.finfo(dtype).max):
            raise WeightsError(f"{show(path)}: {name} holds {np.abs(value).max():.4g}, too large for {dtype}: write "
                               f"{' or '.join(each for each in DTYPES if each != dtype)}")
    kind = jnp.dtype(dtype)
    tensors = {name: value.astype(kind, order="C") for name, value in tensors.items()}  # safetensors needs C
    data = to_bytes(tensors, metadata={"info": json.dumps(info, sort_keys=True)})
    _write(path, data)


def export(workdir, path, name: str | None = None, *, dtype: str = "float16") -> None:
    """The averaged parameters of the newest whole checkpoint of a training run as one weights file.

    Args:
        workdir: ``--workdir`` of ``train.indi``, ``train.diffusion``, ``train.autoencoder`` or ``train.inn``.
        path: the file to write, ``NAME.safetensors``.
        name: what it calls itself; the file's name where None.
        dtype: as for :func:`save`.

    Errors:
        :class:`WeightsError` for a folder that is no such workdir; those of :func:`save`.
    """
    from indigo_jax import checkpoints
    try:
        config = checkpoints.read_config(workdir)
        params = checkpoints.restore_params(workdir)
        needed = checking.needs(config)
        info = {key: config[key] for key in ("architecture", "arguments", *needed)}
        info.update({key: config[key] for key in _EXPORTED if key in config})
        info["num_steps"] = checkpoints.latest_step(workdir)
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = f"config.json has no {error}" if isinstance(error, KeyError) else line(error)
        raise WeightsError(f"{show(workdir)}: not a training run with a whole checkpoint ({reason})") from error
    save(path, params, {**info, "name": name or pathlib.Path(path).stem}, dtype=dtype)


def available() -> list[Entry]:
    """All names that :func:`load` knows: those of the manifest, then the files of the cache folder."""
    entries = []
    for name, row in sorted(_manifest().items()):
        path = FOLDER / row["file"]
        entries.append(Entry(name, path, "bundled", path.stat().st_size if path.is_file() else None, row["sha256"],
                             row.get("learned", "")))
    names = {entry.name for entry in entries}
    folder = cache_folder()
    for path in sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []:
        if path.is_file() and path.stem not in names:
            entries.append(Entry(path.stem, path, "cache", path.stat().st_size, None))
    return entries


def learned(name: str) -> str:
    """What bundled weights have learned, in words; "" for others."""
    return _manifest().get(name, {}).get("learned", "")


def cache_folder() -> pathlib.Path:
    """``$INDIGO_CACHE``, else ``indigo`` in ``$XDG_CACHE_HOME`` or ``~/.cache``: weights put there have names, too."""
    if os.environ.get("INDIGO_CACHE"):
        return pathlib.Path(os.environ["INDIGO_CACHE"]).expanduser()
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "indigo"


def update_manifest(folder=None) -> dict:
    """Check every bundled file and write ``manifest.json`` anew; run by ``python -m indigo_jax.weights``.

    Returns:
        The manifest: ``{name: {"file", "sha256", "size"}}``, and "learned" where a model card has a line "Learned: ".
    """
    folder = FOLDER if folder is None else pathlib.Path(folder)
    manifest = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        info = verify(path)
        manifest[path.stem] = {"file": path.name, "sha256": info["sha256"], "size": info["size"]}
        card = path.with_suffix(".md")
        said = card.read_text(encoding="utf-8").partition("Learned: ")[2] if card.is_file() else ""
        if said:
            manifest[path.stem]["learned"] = said.partition("\n")[0]
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
            raise WeightsError(f"{show(path)}: a folder, not a weights file; of a training run, make one with: "
                               "indigo weights convert FOLDER -o NAME.safetensors --from indigo")
        kind = "no such weights file" if path.suffix or len(path.parts) > 1 else "no weights of this name"
        raise WeightsError(f"{show(path)}: {kind}{near(text, entries)}; give a {SUFFIX} file or a name ({known})")
    if entry.size is None:
        raise WeightsError(f"{entry.name}: the bundled file {entry.path.name} is missing; install the package again")
    return entry.path, entry.sha256


def _manifest():
    try:
        manifest = json.loads((FOLDER / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise WeightsError(f"{FOLDER / MANIFEST}: damaged ({line(error)}); install the package again") from error
    return manifest


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
        raise WeightsError(f"{show(path)}: cannot be written ({error.strerror}); check the folder and its free space"
                           ) from error
    finally:
        temporary.unlink(missing_ok=True)
