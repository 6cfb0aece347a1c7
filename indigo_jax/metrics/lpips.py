"""Learned perceptual image patch similarity on AlexNet features (LPIPS, version 0.1), without flax."""
import os
import zipfile

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax.metrics.inputs import check_finite, check_shapes
from indigo_jax.typing import Array, Image, Params

_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_LAYERS = (  # name, kernel shape HWIO, stride, padding, whether a 3 x 3 max-pool of stride 2 comes before it
    ("conv1", (11, 11, 3, 64), 4, 2, False),
    ("conv2", (5, 5, 64, 192), 1, 2, True),
    ("conv3", (3, 3, 192, 384), 1, 1, True),
    ("conv4", (3, 3, 384, 256), 1, 1, False),
    ("conv5", (3, 3, 256, 256), 1, 1, False),
)
_SMALLEST = 31  # below it the second max-pool has no window


def load_lpips(path: str | os.PathLike | None = None) -> Params:
    """Read LPIPS weights from an npz file (never unpickled).

    The weights are not part of the package: AlexNet's are trained on ImageNet. The file holds ``conv1/kernel`` ..
    ``conv5/kernel`` (HWIO), ``conv1/bias`` .. ``conv5/bias`` and the heads ``lin0`` .. ``lin4``, float32.

    Args:
        path: the file; ``None`` takes it from the environment variable ``INDIGO_LPIPS``.

    Returns:
        A dict of float32 arrays with these keys, for :func:`lpips`.

    Errors:
        FileNotFoundError: no path given or no file there; says what to set.
        ValueError: not an npz file, or arrays missing, of another shape, not finite, or heads below zero.
    """
    given = os.environ.get("INDIGO_LPIPS") if path is None else os.fspath(path)
    fix = ("LPIPS weights are not bundled: set INDIGO_LPIPS=/path/to/lpips_alex_v0.1.npz, or pass "
           "load_lpips(path), or leave lpips out of the metrics")
    if not given:
        raise FileNotFoundError(f"no LPIPS weights given; {fix}")
    if not os.path.isfile(given):
        raise FileNotFoundError(f"no LPIPS weights at {given!r}; {fix}")
    try:
        with open(given, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, TypeError, AttributeError) as error:
        raise ValueError(f"{given!r} is not an npz file of plain arrays: {error}") from error
    params = {}
    shapes = {}
    for i, (name, shape, *_) in enumerate(_LAYERS):
        shapes.update({f"{name}/kernel": shape, f"{name}/bias": shape[3:], f"lin{i}": shape[3:]})
    for key, shape in shapes.items():
        if key not in arrays:
            raise ValueError(f"{given!r} holds no array {key!r}: not LPIPS-AlexNet weights "
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

    ``d = sum_l mean_hw sum_c w_lc (f_l(a) - f_l(b))_c^2``, where ``f_l`` are the five AlexNet activations after
    ReLU, each pixel's channels divided by their Euclidean norm + 1e-10, and ``w_l >= 0`` are the learned heads.

    Args:
        a, b: float ``[B, H, W, 3]`` in ``[-1, 1]`` (used as given: neither clipped nor rounded), or uint8; at least
            31 x 31 pixels.
        params: from :func:`load_lpips`.

    Returns:
        float32 ``[B]``; smaller is nearer. Identical images have 0 up to rounding (below 1e-12, as the compiler may
        fuse the two sides of the difference unlike).

    Errors:
        ValueError: unlike shapes (nothing is resized), not RGB, fewer than 31 pixels on a side, NaN or infinity
            (outside ``jit``; inside, NaN comes out).

    Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018, eq. 1;
    version 0.1 of the heads. Differs from the reference in: convolutions always run in full float32; derivatives of
    both modes are finite where all channels of a feature are zero.
    """
    a, b = (x if isinstance(x, jax.Array) else np.asarray(x) for x in (a, b))
    check_shapes(a, b)
    if a.shape[3] != 3 or min(a.shape[1:3]) < _SMALLEST:
        raise ValueError(f"LPIPS needs RGB images of at least {_SMALLEST} x {_SMALLEST} pixels, got {tuple(a.shape)}")
    for name, x in (("a", a), ("b", b)):
        if not isinstance(x, jax.core.Tracer):
            check_finite(name, x)
    return _distance(_unit_range(a), _unit_range(b), params)


def _unit_range(x):
    x, is_bytes = jnp.asarray(x), x.dtype == np.uint8
    x = x.astype(jnp.float32)
    return x / 127.5 - 1.0 if is_bytes else x


@jax.jit
def _distance(a, b, params):
    total = jnp.zeros(a.shape[0], jnp.float32)
    for i, (f, g) in enumerate(zip(_features(a, params), _features(b, params))):
        total += jnp.mean(jnp.square(_normalise(f) - _normalise(g)) @ params[f"lin{i}"], axis=(1, 2))
    return total


def _features(x, params):
    """The five activations of AlexNet after ReLU, NHWC."""
    x = (x - jnp.asarray(_SHIFT, jnp.float32)) / jnp.asarray(_SCALE, jnp.float32)
    features = []
    for name, _, stride, padding, pool in _LAYERS:
        if pool:
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")
        x = jax.lax.conv_general_dilated(
            x, params[f"{name}/kernel"], (stride, stride), [(padding, padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=jax.lax.Precision.HIGHEST)
        x = jax.nn.relu(x + params[f"{name}/bias"])
        features.append(x)
    return features


def _normalise(x):
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    positive = square > 0
    norm = jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)
    return x / (norm + 1e-10)
