"""Learned perceptual image patch similarity (LPIPS, version 0.1) on AlexNet, SqueezeNet or VGG-16 features."""
import functools
import os
import zipfile

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax.metrics.inputs import check_finite, check_shapes
from indigo_jax.metrics.lpips_networks import NETWORKS, network_of
from indigo_jax.typing import Array, Image, Params


def load_lpips(path: str | os.PathLike | None = None, *, network: str = "alex") -> Params:
    """Read LPIPS weights from an npz file (never unpickled).

    The weights are not part of the package: those of the networks are trained on ImageNet. The file holds kernels
    (HWIO), biases and the heads ``lin0 ...``, float32: ``conv1/kernel`` .. ``conv5/bias``, ``lin0`` .. ``lin4`` for
    AlexNet; ``conv1_1/kernel`` .. ``conv5_3/bias`` and as many heads for VGG-16; ``conv1/kernel``,
    ``fire2/squeeze/kernel`` .. ``fire9/expand3/bias`` and ``lin0`` .. ``lin6`` for SqueezeNet 1.1.

    Args:
        path: the file; ``None`` takes it from the environment variable ``INDIGO_LPIPS``. It may name several files,
            with the separator of ``PATH`` between them: the one of the network is read.
        network: ``"alex"``, ``"squeeze"`` or ``"vgg"``.

    Returns:
        A dict of float32 arrays with these keys, for :func:`lpips`, which knows the network by them.

    Errors:
        FileNotFoundError: no path given or no file there; says what to set.
        ValueError: no such network, not an npz file, or arrays missing, of another shape, not finite, or heads below
            zero.
    """
    if network not in NETWORKS:
        raise ValueError(f"LPIPS has no network {network!r}; use {', '.join(NETWORKS)}")
    given = os.environ.get("INDIGO_LPIPS") if path is None else os.fspath(path)
    fix = (f"LPIPS weights are not bundled: set INDIGO_LPIPS=/path/to/lpips_{network}_v0.1.npz (in "
           "Python: load_lpips(path)), or leave lpips out of the metrics")
    if not given:
        raise FileNotFoundError(f"no LPIPS weights given; {fix}")
    files = [given] if os.path.isfile(given) else [each for each in given.split(os.pathsep) if each]
    for i, file in enumerate(files):
        if not os.path.isfile(file):
            raise FileNotFoundError(f"no LPIPS weights at {file!r}; {fix}")
        arrays = _arrays(file)
        if network_of(arrays) == network or i == len(files) - 1:
            break
    return _checked(file, arrays, network)


def _arrays(given):
    try:
        with open(given, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, TypeError, AttributeError) as error:
        raise ValueError(f"{given!r} is not an npz file of plain arrays: {error}") from error


def _checked(given, arrays, network):
    params = {}
    for key, shape in NETWORKS[network].shapes().items():
        if key not in arrays:
            raise ValueError(f"{given!r} holds no array {key!r}: not the LPIPS weights of {network} "
                             f"(it holds {', '.join(sorted(arrays)[:6])} ...)")
        value = arrays[key]
        if value.shape != shape or value.dtype.kind != "f" or not np.isfinite(value).all():
            raise ValueError(f"{given!r}: {key} must be finite floats of the shape {shape}, "
                             f"got {value.dtype} {value.shape}")
        if key.startswith("lin") and value.min() < 0:
            raise ValueError(f"{given!r}: {key} has weights below zero, which no LPIPS head has")
        params[key] = jnp.asarray(value, jnp.float32)
    return params


def lpips(a: Image, b: Image, params: Params) -> Array:
    """Perceptual distance of each image pair, in float32; can be jitted and differentiated in both images.

    ``d = sum_l mean_hw sum_c w_lc (f_l(a) - f_l(b))_c^2``, where ``f_l`` are the activations after ReLU (five of
    AlexNet and VGG-16, seven of SqueezeNet), each pixel's channels divided by their Euclidean norm + 1e-10, and
    ``w_l >= 0`` are the learned heads.

    Args:
        a, b: float ``[B, H, W, 3]`` in ``[-1, 1]`` (used as given: neither clipped nor rounded), or uint8; at least
            31 x 31 pixels for AlexNet, 17 x 17 for SqueezeNet, 16 x 16 for VGG-16.
        params: from :func:`load_lpips`, which tell the network.

    Returns:
        float32 ``[B]``; smaller is nearer. Identical images have 0 up to rounding (below 1e-12, as the compiler may
        fuse the two sides of the difference unlike).

    Errors:
        ValueError: unlike shapes (nothing is resized), not RGB, too few pixels on a side, NaN or infinity
            (outside ``jit``; inside, NaN comes out).

    Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018, eq. 1;
    version 0.1 of the heads. Differs from the reference in: convolutions always run in full float32; derivatives of
    both modes are finite where all channels of a feature are zero.
    """
    a, b = (x if isinstance(x, jax.Array) else np.asarray(x) for x in (a, b))
    check_shapes(a, b)
    network = network_of(params)
    smallest = NETWORKS[network].smallest
    if a.shape[3] != 3 or min(a.shape[1:3]) < smallest:
        raise ValueError(f"LPIPS needs RGB images of at least {smallest} x {smallest} pixels, got {tuple(a.shape)}")
    for name, x in (("a", a), ("b", b)):
        if not isinstance(x, jax.core.Tracer):
            check_finite(name, x)
    return _distance(network, _unit_range(a), _unit_range(b), params)


def _unit_range(x):
    x, is_bytes = jnp.asarray(x), x.dtype == np.uint8
    x = x.astype(jnp.float32)
    return x / 127.5 - 1.0 if is_bytes else x


@functools.partial(jax.jit, static_argnums=0)
def _distance(network, a, b, params):
    total, features = jnp.zeros(a.shape[0], jnp.float32), NETWORKS[network].features
    for i, (f, g) in enumerate(zip(features(a, params), features(b, params))):
        total += jnp.mean(jnp.square(_normalise(f) - _normalise(g)) @ params[f"lin{i}"], axis=(1, 2))
    return total


def _normalise(x):
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    positive = square > 0
    norm = jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)
    return x / (norm + 1e-10)
