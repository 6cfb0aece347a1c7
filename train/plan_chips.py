"""Chips and topologies: what a TPU or GPU can do, what slices are called, and devices that one does not have."""
import contextlib
import importlib.util
import math
import os
import re
from typing import NamedTuple

import jax


class Chip(NamedTuple):
    """One TPU chip or GPU; per second and in bytes.

    Attributes:
        flops: peak of bfloat16 products, which a TPU's float32 networks use too at jax's default precision.
        memory: HBM, or a GPU's own.
        bandwidth: of it.
        interconnect: what it can send to its neighbours over all links together.
        pod: chips in the largest slice.
        megacore: two cores that jax can show as one device.
        axes: of its torus; of GPUs, which stand in a row, 1.
        flops32: peak of a GPU's products of float32 networks, in TensorFloat-32; None: ``flops``.
        gpu: no TPU. There is no compiler for it here: plans are of the program that a CPU would run.
    """

    flops: float
    memory: float
    bandwidth: float
    interconnect: float
    pod: int
    megacore: bool
    axes: int
    flops32: float | None = None
    gpu: bool = False


# Google Cloud's pages "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e", 2024: their Gbps are one way, eight bits a byte.
CHIPS = {"v4": Chip(275e12, 32 * 2**30, 1.228e12, 2400e9 / 8, 4096, True, 3),
         "v5e": Chip(197e12, 16 * 2**30, 0.819e12, 1600e9 / 8, 256, False, 2),
         "v5p": Chip(459e12, 95 * 2**30, 2.765e12, 4800e9 / 8, 6144, True, 3),
         "v6e": Chip(918e12, 32 * 2**30, 1.640e12, 3584e9 / 8, 256, False, 2),
         # NVIDIA's papers on the Ada and Ampere architectures: products that are added in float32, without sparsity;
         # both have 16 GB and PCI Express 4.
         "rtx4080": Chip(97.5e12, 16 * 2**30, 0.7168e12, 32e9, 8, False, 1, 48.7e12, True),
         "a4000": Chip(76.7e12, 16 * 2**30, 0.448e12, 32e9, 8, False, 1, 38.3e12, True)}


class Topology(NamedTuple):
    """A slice of TPU chips as ``v5e:16x16`` or ``v4:4x4x8``, GPUs as ``rtx4080:1``, or ``cpu:8`` virtual devices of
    this machine."""

    kind: str
    sides: tuple[int, ...]

    def __str__(self):
        return f"{self.kind}:{'x'.join(map(str, self.sides))}"

    @property
    def count(self) -> int:
        """How many chips."""
        return math.prod(self.sides)

    @property
    def chip(self) -> Chip | None:
        """What one of them can do; None for a CPU."""
        return CHIPS.get(self.kind)

    @property
    def platform(self) -> str:
        """As jax calls it: tpu, gpu or cpu."""
        return "cpu" if self.chip is None else "gpu" if self.chip.gpu else "tpu"

    def half(self) -> "Topology | None":
        """With one longest side halved; None where that is odd.

        >>> print(parse("v5e:16x16").half(), parse("v5e:8x16").half(), parse("cpu:1").half())
        v5e:8x16 v5e:8x8 None
        """
        longest = max(self.sides)
        return None if longest % 2 else self._with(longest, longest // 2)

    def double(self) -> "Topology":
        """With one shortest side doubled.

        >>> print(parse("v5e:8x16").double(), parse("v4:2x2x4").double())
        v5e:16x16 v4:2x4x4
        """
        return self._with(min(self.sides), 2 * min(self.sides))

    def _with(self, old, new):
        sides = list(self.sides)
        sides[sides.index(old)] = new
        return self._replace(sides=tuple(sorted(sides)))


def parse(text: str) -> Topology:
    """A topology by its name.

    Errors:
        ValueError for anything but ``KIND:SIDES`` of a known kind.

    >>> parse("v5p:4x4x8").count
    128
    """
    kind, _, sides = text.partition(":")
    axes = 1 if kind == "cpu" else CHIPS[kind].axes if kind in CHIPS else 0
    if not axes:
        raise ValueError(f"topology {text!r}: the kind before the colon is one of {', '.join([*CHIPS, 'cpu'])}")
    if not re.fullmatch(r"[1-9]\d*" + r"(x[1-9]\d*)" * (axes - 1), sides):
        example = f"{kind}:{8 if kind == 'cpu' else 'x'.join(['4'] * axes)}"
        raise ValueError(f"topology {text!r}: write it as {example}")
    return Topology(kind, tuple(int(side) for side in sides.split("x")))


def devices(topology: Topology) -> list:
    """Devices to compile for: virtual ones of this machine, also in place of GPUs, or TPU chips that need not exist.

    Errors:
        ImportError without libtpu; ValueError for sides that no slice has, or more virtual devices than this process
        has started with.
    """
    if topology.platform != "tpu":
        found = jax.devices("cpu")
        if len(found) < topology.count:
            raise ValueError(f"{topology}: this process has {len(found)} virtual devices")
        return found[:topology.count]
    if importlib.util.find_spec("libtpu") is None:
        raise ImportError('planning for TPUs needs their compiler, not a TPU: pip install "indigo_jax[tpu]"; or plan '
                          "for cpu:8")
    for name, value in {"TPU_ACCELERATOR_TYPE": "v5litepod-16", "TPU_WORKER_HOSTNAMES": "localhost",  # not looked up
                        "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies
    host = (*(min(2, side) for side in topology.sides[:2]), 1)
    options = {"chip_config_name": "megacore"} if topology.chip.megacore else {}
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=str(topology), chips_per_host_bounds=host,
                                             **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"{topology}: the compiler knows no such slice ({str(error).splitlines()[0]})") from error
    return list(found)


def start_cpu(count: int) -> None:
    """Keep to the CPU, with so many virtual devices if none have been started yet."""
    with contextlib.suppress(RuntimeError):  # they have been started
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", count)
