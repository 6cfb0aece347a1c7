"""What a file of weights must be before it is believed: readable, of a known network, whole, finite."""
import functools
import hashlib
import json
import math
import os
from collections.abc import Mapping

import numpy as np

from indigo_jax.spelling import near
from indigo_jax.weights import registry

SUFFIX = ".safetensors"
_PRIOR = ("schedule", "prediction")
_RESTORATION = ("noise", "tasks")
_INN = ("scale",)
_NEEDS = {"restorer": _RESTORATION, "prior": _PRIOR, "latent prior": _PRIOR, "inn": _INN, "autoencoder": (),
          "features": ()}
KINDS = {"restorer": "a network that restores directly (for --method indi)",
         "prior": "a diffusion prior of pictures (for --method bird and its like)",
         "latent prior": "a diffusion prior of latents (for --method latent-indigo)",
         "inn": "an invertible network (for --inn)", "autoencoder": "an autoencoder (for --autoencoder)",
         "features": "a network of features (for --inception)"}
ARCHITECTURES = {"RestorationUNet": "restorer", "SwinIR": "restorer",
                 "ADMUNet": "prior", "DDPMUNet": "prior", "DenoisingUNet": "prior",
                 "DRUNet": "prior", "UNet2D": "prior", "KerasUNet": "prior", "LatentUNet": "latent prior",
                 "PromptedUNet": "latent prior", "GuidanceINN": "inn",
                 "TinyAutoencoder": "autoencoder", "AutoencoderKL": "autoencoder",
                 "InceptionV3": "features"}  # what each usually is
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib", ".msgpack")
_DTYPES = ("F16", "BF16", "F32")
_LARGEST = 4096  # of any number among the constructor arguments


class WeightsError(ValueError):
    """Weights that cannot be found, read, trusted or written: one line with the file, what is wrong and what to do."""


def read(path, expected_sha256, *, every_shape: bool = False):
    """Module, float32 numpy tensors by name, info: everything checked before a tensor is loaded.

    Args:
        path: of the file.
        expected_sha256: what the manifest says, or None. A file that is as the manifest says was checked when it was
            made, and its shapes, which take a second to find, are not checked again.
        every_shape: check them all the same.
    """
    from safetensors import SafetensorError, safe_open
    _refuse_pickle(path)
    try:
        with open(path, "rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        if expected_sha256 not in (None, sha256):
            raise WeightsError(f"{show(path)}: its sha256 is {sha256[:12]}..., the manifest says "
                               f"{expected_sha256[:12]}...: a damaged or changed file; install the package again")
        with safe_open(path, framework="numpy") as file:
            info = _parse_info(path, file.metadata())
            slices = {key: file.get_slice(key) for key in file.keys()}
            check_info(path, info)
            module = module_of(path, info, len(slices))
            if every_shape or expected_sha256 is None:
                check_shapes(path, {key: tuple(piece.get_shape()) for key, piece in slices.items()}, module, info)
            for key, piece in slices.items():
                if piece.get_dtype() not in _DTYPES:
                    raise WeightsError(f"{show(path)}: {key} is {piece.get_dtype()}, not a float of 16 or 32 bits")
            halves = [key for key, piece in slices.items() if piece.get_dtype() == "BF16"]
            tensors = {key: np.asarray(file.get_tensor(key)).astype(np.float32) for key in slices if key not in halves}
        if halves:
            from indigo_jax.convert import checkpoint
            widened = checkpoint.read_safetensors(path)
            tensors = {key: tensors[key] if key in tensors else np.array(widened[key]) for key in slices}
    except (SafetensorError, OSError, MemoryError) as error:
        reason = line(getattr(error, "strerror", None) or error)
        raise WeightsError(f"{show(path)}: not a safetensors file, or a damaged one ({reason}); copy it again"
                           ) from error
    check_finite(path, tensors)
    return module, tensors, {**info, "kind": kind_of(info), "sha256": sha256}


def _refuse_pickle(path):
    try:
        with open(path, "rb") as stream:
            head = stream.read(4).ljust(4, b"\0")
    except OSError as error:
        raise WeightsError(f"{show(path)}: cannot be opened ({error.strerror})") from error
    pickled = head[:1] == b"\x80" and head[1] <= 5 and head[2:] != b"\0\0"  # zeros: the length of a safetensors header
    if path.suffix.lower() in _PICKLES or head == b"PK\3\4" or pickled:
        raise WeightsError(f"{show(path)}: a pickle or archive, which can run code when it is opened: refused; only "
                           f"{SUFFIX} files are read")


def _parse_info(path, metadata):
    try:
        info = json.loads((metadata or {})["info"])
    except KeyError:
        raise WeightsError(f"{show(path)}: a safetensors file without 'info' in its metadata: not written by this "
                           "package") from None
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{show(path)}: 'info' in its metadata is not JSON ({line(error)})") from error
    return info


def check_info(path, info):
    if not isinstance(info, dict) or not isinstance(info.get("arguments", {}), dict):
        raise WeightsError(f"{show(path)}: 'info' in its metadata is not a table of names and values")
    _check_has(path, info, ("architecture", "arguments"))
    _find(path, info)
    kind = kind_of(info)
    if kind not in KINDS:
        raise WeightsError(f"{show(path)}: unknown kind {brief(kind)}{near(kind, KINDS)}; this version knows "
                           f"{', '.join(KINDS)}")
    needed = _NEEDS[kind]
    _check_has(path, info, needed)
    if needed is _RESTORATION:
        _check_restoration(path, info)
    elif needed is _PRIOR:
        _check_prior(path, info)
    elif needed is _INN and (not isinstance(info["scale"], int) or info["scale"] < 1):
        raise WeightsError(f"{show(path)}: 'scale' in its info is {brief(info['scale'])}, not a whole number from 1")
    if "autoencoder" in info:
        _check_autoencoder(path, info["autoencoder"])


def _find(path, info):
    """The registered network of the info; None for one of this package."""
    name = info["architecture"]
    if isinstance(name, str) and name in ARCHITECTURES:
        return None
    try:
        found = registry.find(name) if isinstance(name, str) else None
    except ValueError as error:
        raise WeightsError(f"{show(path)}: {error}") from error
    if found is None:
        own, known = name if str(name).isidentifier() else "Class", [*registry.names(), *ARCHITECTURES]
        raise WeightsError(f"{show(path)}: unknown architecture {brief(name)}{near(name, known, least=0.8)}; "
                           f"for one of yours call weights.register, or set {registry.VARIABLE}=package.module:{own}; "
                           f"known here: {', '.join(known)}")
    return found


def kind_of(info) -> str:
    """What weights are, of :data:`KINDS`: as they say, or by their architecture, or by what travels with them."""
    usual = ARCHITECTURES.get(info["architecture"])
    if usual is None:
        registered = registry.find(info["architecture"]) if not info.get("kind") else None
        by_needs = next((kind for kind, needed in _NEEDS.items() if needed and set(needed) <= info.keys()), "prior")
        usual = registered.kind if registered and registered.kind else by_needs
    if usual == "restorer" and set(_PRIOR) <= info.keys() and not set(_RESTORATION) <= info.keys():
        usual = "prior"  # InDI's network, trained as a diffusion
    return info.get("kind") or ("latent prior" if usual == "prior" and "autoencoder" in info else usual)


def needs(info) -> tuple[str, ...]:
    """What the info of weights must have beside architecture and arguments."""
    return _NEEDS[kind_of(info)]


def _check_restoration(path, info):
    noise = info["noise"]
    if (not isinstance(noise, dict) or not isinstance(noise.get("name"), str)
            or not isinstance(noise.get("eps", 0.0), (int, float)) or not math.isfinite(noise.get("eps", 0.0))):
        raise WeightsError(f"{show(path)}: the noise mode {brief(noise)} in its info is not a name and a level")
    if not isinstance(info["tasks"], list) or not all(isinstance(task, str) for task in info["tasks"]):
        raise WeightsError(f"{show(path)}: 'tasks' in its info is {brief(info['tasks'])}, not a list of names")


def _check_autoencoder(path, autoencoder):
    """Of a prior or an invertible network: whose latents it knows."""
    values = [autoencoder.get(key) for key in ("name", "sha256")] if isinstance(autoencoder, dict) else [None]
    if not all(isinstance(value, str) and value.isprintable() for value in values):
        raise WeightsError(f"{show(path)}: 'autoencoder' in its info is {brief(autoencoder)}, not a name and a "
                           "sha256")


def _check_has(path, info, needed):
    missing = [key for key in needed if key not in info]
    if missing:
        raise WeightsError(f"{show(path)}: its info lacks {', '.join(missing)}")


def _check_prior(path, info):
    from indigo_jax import denoisers, schedules
    schedule = info["schedule"]
    try:
        if not isinstance(schedule, dict) or "name" not in schedule:
            raise ValueError("it has no name: make it with schedules.to_json(NAME, ...)")
        schedules.to_json(**schedule)
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{show(path)}: the schedule {brief(schedule)} in its info is none of ours "
                           f"({line(error)})") from error
    if info["prediction"] not in denoisers.BY_PREDICTION:
        raise WeightsError(f"{show(path)}: 'prediction' in its info is {brief(info['prediction'])}, not one of "
                           f"{', '.join(denoisers.BY_PREDICTION)}{near(info['prediction'], denoisers.BY_PREDICTION)}")
    sigma_data = info.get("sigma_data", 0.5)
    if isinstance(sigma_data, bool) or not isinstance(sigma_data, (int, float)) or not 0 < sigma_data < math.inf:
        raise WeightsError(f"{show(path)}: 'sigma_data' in its info is {brief(sigma_data)}, not a number above 0")
    if not isinstance(info.get("learned_variance", False), bool):
        raise WeightsError(f"{show(path)}: 'learned_variance' in its info is {brief(info['learned_variance'])}, not "
                           "true or false")
    offset, spacing = info.get("steps_offset", 0), info.get("timestep_spacing", "leading")
    for name, good in (("steps_offset", type(offset) is int and offset >= 0),
                       ("timestep_spacing", spacing in schedules.RESPACINGS),
                       ("set_alpha_to_one", isinstance(info.get("set_alpha_to_one", True), bool))):
        if not good:
            raise WeightsError(f"{show(path)}: {name!r} in its info is {brief(info[name])}, which "
                               "schedules.respace does not take")


def module_of(path, info, count):
    """The network of the info; its arguments are bounded, so that a forged file cannot ask for a monster."""
    from indigo_jax import models
    arguments, registered = {}, _find(path, info)
    for key, value in info["arguments"].items():
        numbers = value if isinstance(value, (list, tuple)) else [value]
        if len(numbers) > 16 or any(isinstance(x, (int, float)) and not 0 <= x <= _LARGEST for x in numbers) or not all(
                isinstance(x, (int, float, str, type(None))) for x in numbers):
            raise WeightsError(f"{show(path)}: the argument {brief(key)} = {brief(value)} in its info is not one of "
                               f"{info['architecture']}")
        arguments[key] = tuple(value) if isinstance(value, (list, tuple)) else value
    try:
        if "dtype" in arguments:
            arguments["dtype"] = np.dtype(_float_type(arguments["dtype"]))
        module = (registered.module if registered else getattr(models, info["architecture"]))(**arguments)
        for name in ("num_res_blocks", "num_blocks", "encoder_blocks", "levels", "layers_per_block"):
            blocks = getattr(module, name, 0)
            if registered is None and (sum(blocks) if isinstance(blocks, tuple) else blocks) > count:
                raise ValueError(f"{blocks} blocks in {count} tensors")
    except (TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{show(path)}: arguments that {info['architecture']} does not take "
                           f"({line(error)})") from error
    return module


def _float_type(name):
    from jax import numpy as jnp
    types = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}
    if name not in types:
        raise ValueError(f"dtype {name!r}: use one of {', '.join(types)}")
    return types[name]


def check_shapes(path, shapes, module, info):
    """The tensors are exactly those of ``module.init``: same names, same shapes. Nothing is computed."""
    try:
        registered = _find(path, info)
        if registered is None:
            inputs = _inputs(module, "autoencoder" in info, info.get("learned_variance", False))
        else:
            inputs = (registered.inputs or _usual_inputs(info))(module)
        expected = _expected_shapes(module, tuple(map(tuple, inputs)))
    except WeightsError:
        raise
    except Exception as error:  # whatever a network of senseless arguments raises
        raise WeightsError(f"{show(path)}: no {type(module).__name__} can be made of the arguments in its info "
                           f"({line(error)})") from error
    missing, extra = sorted(expected.keys() - shapes.keys()), sorted(shapes.keys() - expected.keys())
    if missing or extra:
        said = [f"{len(names)} {kind} ({', '.join(map(brief, names[:3]))}{', ...' if len(names) > 3 else ''})"
                for names, kind in ((missing, "missing"), (extra, "unknown")) if names]
        if {f"params/{name}" for name in extra} == set(missing):
            said[-1] += "; give the whole variables, {'params': ...}"
        raise WeightsError(f"{show(path)}: its tensors are not those of its {type(module).__name__}: "
                           f"{' and '.join(said)}")
    for key, shape in expected.items():
        if tuple(shapes[key]) != shape:
            raise WeightsError(f"{show(path)}: {key} has the shape {list(shapes[key])}, the network needs "
                               f"{list(shape)}")


@functools.lru_cache(maxsize=16)
def _expected_shapes(module, shapes):
    import jax
    import jax.numpy as jnp
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    variables = jax.eval_shape(lambda *inputs: module.init(jax.random.key(0), *inputs), *inputs)
    return {name: tuple(leaf.shape) for name, leaf in flatten(variables)}


def _usual_inputs(info):
    """Shapes for a registered network, by its kind."""
    kind = kind_of(info)

    def inputs(module):
        side = info.get("image_size") or getattr(module, "image_size", 64)
        channels = 3
        if kind == "latent prior":
            channels = getattr(module, "in_channels", None) or getattr(module, "out_channels", 4)
        x = (1, side, side, channels)
        if kind == "autoencoder":
            return (x,)
        if kind == "inn":
            return x, (1, side // info["scale"], side // info["scale"], 3)
        return (x, (1,), x) if getattr(module, "condition_on_y", False) else (x, (1,))

    return inputs


def _inputs(module, of_latents, learned_variance):
    """Shapes that a network can be called with."""
    def batch(side, channels=3):
        return 1, side, side, channels

    if hasattr(module, "undecimated"):  # an invertible network, of a picture or latents, and the measurement in pixels
        return batch(16 if module.undecimated else 16 * 2**module.levels, module.channels), batch(16)
    if hasattr(module, "smallest"):  # a network of features
        return batch(module.smallest),
    if hasattr(module, "window"):  # SwinIR
        return batch(module.window * module.unshuffle), (1,)
    if hasattr(module, "latent_channels"):  # an autoencoder
        return batch(module.factor, module.out_channels),
    if hasattr(module, "prompt_channels"):
        return batch(2 ** len(module.block_out_channels), module.in_channels), (1,)
    if hasattr(module, "context_dim"):
        x = batch(2 ** len(module.block_out_channels), module.in_channels)
        return (x, (1,), (1, 2, module.context_dim)) if module.context_dim else (x, (1,))
    widths = getattr(module, "multipliers", None) or getattr(module, "widths", None) or module.block_out_channels
    levels = len(widths)
    side = max(16, getattr(module, "patch_size", 1) * 2 ** (levels - 1))
    x = batch(side, module.out_channels // (2 if learned_variance else 1) if of_latents else 3)
    return (x, (1,), x) if getattr(module, "condition_on_y", False) else (x, (1,))


def check_finite(path, tensors):
    for key, value in tensors.items():
        if not np.isfinite(np.asarray(value, np.float32)).all():
            raise WeightsError(f"{show(path)}: {key} holds NaN or infinity: the weights are damaged")


def flatten(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}/")
        else:
            yield prefix + key, value


def show(path):
    text = os.fspath(path)
    return text if text.isprintable() else repr(text)


def line(text):
    return " ".join(str(text).split())[:200] or type(text).__name__


def brief(value):
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
