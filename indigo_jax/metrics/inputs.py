"""What every metric does with its two image batches before it measures anything."""
import jax.numpy as jnp
import numpy as np

_LUMA = {"y": (65.481 / 255.0, 128.553 / 255.0, 24.966 / 255.0, 16.0), "gray": (0.299, 0.587, 0.114, 0.0)}
CHANNELS = ("rgb", *_LUMA)


def check_shapes(a, b) -> None:
    """Refuse two batches that cannot be compared pixel by pixel; reads only shapes and dtypes.

    Errors:
        ValueError: not ``[B, H, W, C]`` with 1 or 3 channels, unlike shapes, an empty picture, a dtype other than
            floating or uint8.
    """
    for name, x in (("a", a), ("b", b)):
        if len(x.shape) != 4:
            hint = "; add the batch axis with x[None]" if len(x.shape) == 3 else ""
            raise ValueError(f"metrics take images [B, H, W, 3], {name} has the shape {tuple(x.shape)}{hint}")
        if x.shape[3] not in (1, 3) or 0 in x.shape[1:]:
            raise ValueError(f"metrics take images [B, H, W, 3] (or 1 channel), {name} has the shape {tuple(x.shape)}")
        if x.dtype != np.uint8 and not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"metrics take float images in [-1, 1] or uint8 images, {name} is {x.dtype}")
    if tuple(a.shape) != tuple(b.shape):
        raise ValueError(f"the two image batches differ in shape: {tuple(a.shape)} and {tuple(b.shape)}; metrics never "
                         "resize, so crop or resample one of them yourself, and say so beside the number")


def check_finite(name, x) -> None:
    """Refuse a batch with NaN or infinity in it, and name the first such image."""
    if jnp.issubdtype(x.dtype, jnp.floating):
        finite = np.isfinite(np.asarray(x)).reshape(x.shape[0], -1).all(axis=1)
        if not finite.all():
            raise ValueError(f"image {int(np.argmin(finite))} of {name} holds NaN or infinity: it cannot be measured")


def check_settings(*, channel, border, round_luma) -> None:
    """Refuse what no protocol has: an unknown channel, a border that is no number of pixels, a rounded luma of RGB."""
    if channel not in CHANNELS:
        raise ValueError(f"unknown channel {channel!r}; use one of {', '.join(CHANNELS)}")
    if isinstance(border, bool) or border != int(border) or border < 0:
        raise ValueError(f"border is a number of pixels, 0 or more, got {border!r}")
    if round_luma and channel == "rgb":
        raise ValueError("round_luma=True needs channel='y' or 'gray'; with channel='rgb' there is no luma to round")


def pair_255(a, b, *, channel, border, round_uint8, round_luma):
    """Both batches in float64 units of 0..255, with the protocol applied: ``[B, h, w, 1 or 3]`` twice.

    In this order: floats go from ``[-1, 1]`` to ``[0, 255]`` by ``(x + 1) 127.5``; ``round_uint8`` clips and rounds
    (half to even), as writing a picture file does; the luma is taken; ``round_luma`` rounds it; ``border`` pixels are
    cut off each of the four sides.

    Errors:
        ValueError: see :func:`check_shapes` and :func:`check_finite`; an unknown channel; luma of a 1-channel image;
            a border that leaves no pixel.
    """
    a, b = np.asarray(a), np.asarray(b)
    check_shapes(a, b)
    check_settings(channel=channel, border=border, round_luma=round_luma)
    if channel != "rgb" and a.shape[3] != 3:
        raise ValueError(f"channel={channel!r} is computed from RGB, the images have {a.shape[3]} channel; "
                         "use channel='rgb', which takes the channels as they are")
    if 2 * border >= min(a.shape[1:3]):
        raise ValueError(f"border={border} leaves nothing of images of {a.shape[1]} x {a.shape[2]} pixels")
    check_finite("a", a)
    check_finite("b", b)
    return tuple(to_255(x, channel, int(border), round_uint8, round_luma) for x in (a, b))


def to_255(x, channel, border, round_uint8, round_luma):
    """One batch as :func:`pair_255` has them, unchecked."""
    if border:
        x = x[:, border:-border, border:-border]
    if x.dtype == np.uint8:
        x = x.astype(np.float64)
    else:
        x = (x.astype(np.float64) + 1.0) * 127.5
        if round_uint8:
            x = np.rint(np.clip(x, 0.0, 255.0))
    if channel != "rgb":
        red, green, blue, offset = _LUMA[channel]
        x = (red * x[..., :1] + green * x[..., 1:2] + blue * x[..., 2:]) + offset
        if round_luma:
            x = np.rint(x)
    return x


def weights_of(visible, a, border):
    """What of the images ``a`` counts, bool ``[B, h, w]`` without the border; all of it where ``visible`` is None.

    Errors:
        ValueError: not ``[B, H, W]``, or an image of which nothing counts.
    """
    if visible is None:
        return None
    visible = np.asarray(visible, bool)
    if visible.shape != a.shape[:3]:
        raise ValueError(f"visible is [B, H, W], {tuple(a.shape[:3])} here, not {visible.shape}")
    visible = visible[:, border:visible.shape[1] - border, border:visible.shape[2] - border]
    if not visible.any(axis=(1, 2)).all():
        raise ValueError("no pixel is visible: there is nothing to measure")
    return visible
