"""Spreading work over devices: a mesh of the axes ``data`` and ``fsdp``, batches over both, parameters by rules.

There is one program for every number of devices and processes: ``jit`` with ``NamedSharding`` (what used to be ``pmap``
and ``pjit``). A mesh from :func:`data_mesh` has the axis ``data`` alone, and every function here takes either.
"""
import collections
import concurrent.futures
import functools
import os
import re
from typing import Callable, Iterable, Iterator

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

RULES = ((r"(^|/)(bias|scale|count)$", "replicated"), (r"", "sharded"))  # of parameter names; the first that fits
THREADS = 64  # of a process, after :func:`fix_threads`; having more of them than cores costs nothing


def fix_threads() -> None:
    """Let the CPU devices of this process share :data:`THREADS` threads; call it before the first use of a device.

    XLA adds up a long sum, as that of a normalisation, in parts whose number depends on that of the threads, and there
    are as many threads as cores or, if these are more, virtual devices. So the last bits of a result depend on both,
    even if one device alone is used. With a fixed number they do not, on up to :data:`THREADS` devices. Other kinds of
    device are not affected.
    """
    os.environ["PJRT_NPROC"] = str(THREADS)  # read once, when jax starts the CPU; there is no option for it


def mesh(devices=None, *, fsdp: int = 1) -> Mesh:
    """A mesh ``[devices / fsdp, fsdp]`` of all devices (or the given ones) with the axes "data" and "fsdp".

    Args:
        devices: any sequence of devices, also those of a topology that one does not have.
        fsdp: how many devices share one copy of the parameters; divides their number.

    Errors:
        ValueError for an ``fsdp`` that does not.

    >>> dict(mesh(jax.devices()[:1]).shape)
    {'data': 1, 'fsdp': 1}
    """
    devices = jax.devices() if devices is None else list(devices)
    if fsdp < 1 or len(devices) % fsdp:
        raise ValueError(f"fsdp {fsdp} does not divide the {len(devices)} devices")
    return jax.make_mesh((len(devices) // fsdp, fsdp), ("data", "fsdp"), devices=devices,
                         axis_types=(AxisType.Auto,) * 2)


def data_mesh(devices=None) -> Mesh:
    """A mesh of all devices (or the given ones) along the axis "data"."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), ("data",), devices=devices, axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis is split over the devices."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def parameter_specs(tree, mesh, *, rules=RULES):
    """The ``PartitionSpec`` of every array of a tree: replicated, or its largest axis that divides split over "fsdp".

    Args:
        tree: of arrays or ``ShapeDtypeStruct``: parameters, their average, the state of an optimiser, or all in one.
        mesh: a mesh, or its shape alone (``AbstractMesh``).
        rules: pairs of a regular expression and "replicated" or "sharded". The first one found in an array's name
            decides; a name is the array's path in the tree, as ``params/down_0/conv_in/kernel``. So a rule on the end
            of a name holds for the parameter, its average and its moments alike.

    Errors:
        ValueError for a name that no rule fits, or a rule of another kind.

    >>> tree = {"conv": {"kernel": np.zeros([3, 3, 4, 8]), "bias": np.zeros(8)}}
    >>> shape = jax.sharding.AbstractMesh((2, 4), ("data", "fsdp"))
    >>> [tuple(spec) for spec in jax.tree.leaves(parameter_specs(tree, shape))]
    [(), (None, None, None, 'fsdp')]
    """
    parts = mesh.shape.get("fsdp", 1)

    def spec(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        kind = next((kind for pattern, kind in rules if re.search(pattern, name)), None)
        if kind not in ("replicated", "sharded"):
            raise ValueError(f"parameter {name}: no rule fits" if kind is None else
                             f"rule {kind!r} of parameter {name}; it is 'replicated' or 'sharded'")
        axes = [axis for axis, size in enumerate(leaf.shape) if size and size % parts == 0]
        if parts == 1 or kind == "replicated" or not axes:
            return PartitionSpec()
        largest = max(axes, key=lambda axis: (leaf.shape[axis], axis))
        return PartitionSpec(*(None,) * largest, "fsdp")

    return jax.tree_util.tree_map_with_path(spec, tree)


def parameter_shardings(tree, mesh: Mesh, *, rules=RULES):
    """The ``NamedSharding`` of every array of a tree; see :func:`parameter_specs`."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), parameter_specs(tree, mesh, rules=rules))


def gathered(params, *, rules=RULES):
    """Parameters made whole on every device for a computation, whose gradient is split again.

    An all-gather forward and a reduce-scatter backward, when traced in the scope of a mesh with ``fsdp`` above 1
    (``jax.sharding.use_abstract_mesh``). Elsewhere it is ``params`` as it is.
    """
    ambient = jax.sharding.get_abstract_mesh()
    if ambient is None or ambient.empty or ambient.shape.get("fsdp", 1) == 1:
        return params
    specs = parameter_specs(params, ambient, rules=rules)
    whole = jax.tree.map(lambda _: PartitionSpec(), specs)

    @jax.custom_vjp
    def gather(tree):
        return jax.lax.with_sharding_constraint(tree, whole)

    gather.defvjp(lambda tree: (gather(tree), None),
                  lambda _, gradient: (jax.lax.with_sharding_constraint(gradient, specs),))
    return gather(params)


def gather(tree):
    """A tree of arrays as numpy on every process, however they are spread. All processes must call it together."""
    def fetch(leaf):
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return jax.device_get(leaf)
        if leaf.is_fully_replicated:
            return np.asarray(leaf.addressable_data(0))
        from jax.experimental import multihost_utils
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(fetch, tree)


def check_batch_size(batch_size: int, mesh: Mesh, *, parts: int = 1) -> None:
    """Refuse a batch that the devices (and ``parts`` microbatches) cannot share evenly, naming sizes that they can."""
    multiple = mesh.size * parts
    if batch_size % multiple:
        lower = batch_size // multiple * multiple
        choices = " or ".join(str(n) for n in (lower, lower + multiple) if n)
        among = f"{mesh.size} devices" + (f" and {parts} microbatches" if parts > 1 else "")
        raise ValueError(f"batch size {batch_size} cannot be split evenly over {among}: use {choices}")


def process_rows(batch_size: int, mesh: Mesh, *, process_index: int | None = None) -> np.ndarray:
    """Which rows of a batch ``[batch_size]`` the devices of a process (default: this one) hold, in ascending order.

    Those of all processes together are 0 ... batch_size - 1, each once.
    """
    process_index = jax.process_index() if process_index is None else process_index
    places = batch_sharding(mesh).devices_indices_map((batch_size,))
    own = [np.arange(batch_size)[index] for device, index in places.items() if device.process_index == process_index]
    return np.unique(np.concatenate(own)) if own else np.zeros(0, np.int64)


def put_batch(batch: dict, mesh: Mesh) -> dict:
    """This process's rows of a batch (numpy, ``[b, ...]`` each, see :func:`process_rows`) as arrays over the mesh."""
    placement = batch_sharding(mesh)
    share = mesh.size // max(len(placement.addressable_devices), 1)

    def put(rows):
        rows = np.asarray(rows)
        shape = (len(rows) * share, *rows.shape[1:])
        own = process_rows(shape[0], mesh)

        def block(index):
            start, stop, _ = index[0].indices(shape[0])
            first = int(np.searchsorted(own, start))
            return rows[first:first + stop - start]

        return jax.make_array_from_callback(shape, placement, block)

    return {name: put(rows) for name, rows in batch.items()}


def pad_batch(batch: dict, multiple: int) -> tuple[dict, np.ndarray]:
    """Fill a batch up to the next multiple (at least one) with copies of its last row, or zeros if it has none.

    Args:
        batch: numpy arrays ``[b, ...]``, b from 0.
        multiple: as ``mesh.size``.

    Returns:
        The batch ``[B, ...]``, and ``mask`` bool ``[B]``: True for the first b rows.

    >>> rows, mask = pad_batch({"id": np.array([7, 8, 9])}, 2)
    >>> rows["id"].tolist(), mask.tolist()
    ([7, 8, 9, 9], [True, True, True, False])
    """
    if multiple < 1:
        raise ValueError(f"multiple is {multiple}; it must be at least 1")
    sizes = {len(rows) for rows in batch.values()}
    if len(sizes) != 1:
        raise ValueError(f"the arrays of a batch have {sorted(sizes)} rows: they must have one number")
    count = sizes.pop()
    missing = max(-(-count // multiple), 1) * multiple - count

    def fill(rows):
        rows = np.asarray(rows)
        last = rows[-1:] if count else np.zeros((1, *rows.shape[1:]), rows.dtype)
        return np.concatenate([rows, np.repeat(last, missing, axis=0)])

    return {name: fill(rows) for name, rows in batch.items()}, np.arange(count + missing) < count


def per_device(function, mesh: Mesh):
    """``function(shared, batch)`` run by each device for its own images: without any talk between devices.

    Under ``jit`` alone, XLA may let devices agree on something that concerns all images, as on whether a loop may skip
    work. Here each decides for its own, whatever the function does.

    Args:
        function: of two trees of arrays: ``shared`` is whole on every device, every array of ``batch`` and of the
            result begins with the batch.
        mesh: from :func:`mesh` or :func:`data_mesh`; must divide the batch (:func:`check_batch_size`).

    >>> double = per_device(lambda shared, batch: shared * batch, data_mesh(jax.devices()[:1]))
    >>> jax.jit(double)(np.float32(2), np.arange(3, dtype=np.float32)).tolist()
    [0.0, 2.0, 4.0]
    """
    split = PartitionSpec(mesh.axis_names)
    return jax.shard_map(function, mesh=mesh, in_specs=(PartitionSpec(), split), out_specs=split, check_vma=False)


def over_devices(function: Callable, items: Iterable, devices) -> Iterator[tuple]:
    """Run ``function(item, device)`` for each item, on the devices in turn, a few ahead of whoever takes the results.

    Yields:
        ``(item, future)`` in the order of the items; ``future.result()`` is the result or raises what was raised.
    """
    devices = list(devices)
    pool = concurrent.futures.ThreadPoolExecutor(len(devices), thread_name_prefix="indigo")
    waiting = collections.deque()
    try:
        for i, item in enumerate(items):
            waiting.append((item, pool.submit(function, item, devices[i % len(devices)])))
            if len(waiting) > len(devices):
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    except BaseException:  # whoever takes the results has gone
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown(wait=False)


def same_program(function, mesh: Mesh):
    """``function(shared, batch)`` as in :func:`per_device`, but for each device the program of one that is alone.

    A program for several devices goes through passes of the compiler that one for a single device does not, so its last
    bits may be others. Here they are the same on any number of devices, if :func:`fix_threads` was called. The price is
    that it is compiled for every device, at the same time; :func:`per_device` compiles once, where bits do not matter.

    Args:
        function: as in :func:`per_device`; is compiled here, so needs no ``jit``.
        mesh: of devices of this process.

    Returns:
        A function of arrays that lie on the mesh: ``shared`` :func:`replicated`, ``batch`` from :func:`put_batch`.

    >>> one = data_mesh(jax.devices()[:1])
    >>> two, batch = jax.device_put(2.0, replicated(one)), put_batch({"x": np.arange(3, dtype=np.float32)}, one)
    >>> same_program(lambda shared, batch: shared * batch["x"], one)(two, batch).tolist()
    [0.0, 2.0, 4.0]
    """
    compiled, placement = jax.jit(function), batch_sharding(mesh)  # jit keeps a program for each device

    def of_device(device, array):
        return next(shard.data for shard in array.addressable_shards if shard.device == device)

    def joined(*parts):
        shape = (len(parts) * len(parts[0]), *parts[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, placement, parts)

    def run(*arguments):
        pieces = [jax.tree.map(functools.partial(of_device, device), arguments) for device in mesh.devices.flat]
        with concurrent.futures.ThreadPoolExecutor(mesh.size) as pool:  # an array must not be split by several threads
            parts = list(pool.map(lambda piece: compiled(*piece), pieces))
        return jax.tree.map(joined, *parts)

    return run
