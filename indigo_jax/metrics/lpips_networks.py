"""The networks whose activations LPIPS compares, as tables: AlexNet, SqueezeNet 1.1 and VGG-16, without flax."""
from typing import NamedTuple

import jax
import jax.numpy as jnp

_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


class Convolution(NamedTuple):
    """With ReLU. ``shape`` is that of the kernel, HWIO; ``tap`` says whether its output is compared."""

    name: str
    shape: tuple[int, int, int, int]
    stride: int = 1
    padding: int = 1
    tap: bool = False

    def shapes(self):
        return {f"{self.name}/kernel": self.shape, f"{self.name}/bias": self.shape[3:]}

    def width(self):
        return self.shape[3]

    def __call__(self, x, params):
        x = jax.lax.conv_general_dilated(
            x, params[f"{self.name}/kernel"], (self.stride,) * 2, [(self.padding,) * 2] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=jax.lax.Precision.HIGHEST)
        return jax.nn.relu(x + params[f"{self.name}/bias"])


class Fire(NamedTuple):
    """SqueezeNet's block: a narrow 1 x 1 convolution, then one of 1 x 1 and one of 3 x 3 side by side."""

    name: str
    inputs: int
    narrow: int
    half: int
    tap: bool = False

    def parts(self):
        return (Convolution(f"{self.name}/squeeze", (1, 1, self.inputs, self.narrow), padding=0),
                Convolution(f"{self.name}/expand1", (1, 1, self.narrow, self.half), padding=0),
                Convolution(f"{self.name}/expand3", (3, 3, self.narrow, self.half)))

    def shapes(self):
        return {name: shape for part in self.parts() for name, shape in part.shapes().items()}

    def width(self):
        return 2 * self.half

    def __call__(self, x, params):
        squeeze, *expand = self.parts()
        x = squeeze(x, params)
        return jnp.concatenate([part(x, params) for part in expand], axis=-1)


class Pool(NamedTuple):
    """Maximum over ``size x size`` with stride 2; ``whole`` keeps the last window, which may hang over the edge."""

    size: int = 3
    whole: bool = False
    tap: bool = False

    def shapes(self):
        return {}

    def __call__(self, x, params):
        del params
        over = [(self.size - side) % 2 if self.whole else 0 for side in x.shape[1:3]]
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, self.size, self.size, 1), (1, 2, 2, 1),
                                     [(0, 0), (0, over[0]), (0, over[1]), (0, 0)])


class Network(NamedTuple):
    """``layers`` one after the other; ``smallest`` side of a picture of which every window has a pixel."""

    layers: tuple
    smallest: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all arrays: kernels, biases, and a head ``lin0 ...`` for each activation that is compared."""
        found = {name: shape for layer in self.layers for name, shape in layer.shapes().items()}
        taps = [layer for layer in self.layers if layer.tap]
        return {**found, **{f"lin{i}": (layer.width(),) for i, layer in enumerate(taps)}}

    def features(self, x, params) -> list:
        """The activations that are compared, NHWC, of pictures ``[B, H, W, 3]`` in ``[-1, 1]``."""
        x, found = (x - jnp.asarray(_SHIFT, jnp.float32)) / jnp.asarray(_SCALE, jnp.float32), []
        for layer in self.layers:
            x = layer(x, params)
            if layer.tap:
                found.append(x)
        return found


def _vgg():
    layers, inputs = [], 3
    for block, (width, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), start=1):
        if block > 1:
            layers.append(Pool(2))
        for i in range(1, count + 1):
            layers.append(Convolution(f"conv{block}_{i}", (3, 3, inputs, width), tap=i == count))
            inputs = width
    return tuple(layers)


NETWORKS = {
    "alex": Network((
        Convolution("conv1", (11, 11, 3, 64), 4, 2, tap=True), Pool(),
        Convolution("conv2", (5, 5, 64, 192), 1, 2, tap=True), Pool(),
        Convolution("conv3", (3, 3, 192, 384), tap=True), Convolution("conv4", (3, 3, 384, 256), tap=True),
        Convolution("conv5", (3, 3, 256, 256), tap=True)), 31),
    "squeeze": Network((
        Convolution("conv1", (3, 3, 3, 64), 2, 0, tap=True), Pool(whole=True),
        Fire("fire2", 64, 16, 64), Fire("fire3", 128, 16, 64, tap=True), Pool(whole=True),
        Fire("fire4", 128, 32, 128), Fire("fire5", 256, 32, 128, tap=True), Pool(whole=True),
        Fire("fire6", 256, 48, 192, tap=True), Fire("fire7", 384, 48, 192, tap=True),
        Fire("fire8", 384, 64, 256, tap=True), Fire("fire9", 512, 64, 256, tap=True)), 17),
    "vgg": Network(_vgg(), 16),
}


def network_of(names) -> str:
    """The network that has the most of these arrays.

    >>> network_of(["fire2/squeeze/kernel", "lin0"]), network_of(["conv1_1/bias"]), network_of(["conv2/kernel"])
    ('squeeze', 'vgg', 'alex')
    """
    names = set(names)
    return max(NETWORKS, key=lambda name: len(names & NETWORKS[name].shapes().keys()))
