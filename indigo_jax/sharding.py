"""Spreading batches over devices: one mesh axis ``data``, parameters replicated, batches split."""
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def data_mesh(devices=None) -> Mesh:
    """A mesh of all devices (or the given ones) along the axis "data"."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), ("data",), devices=devices, axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis is split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def put_batch(batch: dict, mesh: Mesh) -> dict:
    """This process's rows of a batch (numpy, ``[b, ...]`` each) as global arrays split over the mesh."""
    return {name: jax.make_array_from_process_local_data(batch_sharding(mesh), np.asarray(rows))
            for name, rows in batch.items()}


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Refuse a batch that the devices cannot share evenly, naming sizes that they can."""
    if batch_size % mesh.size:
        lower = batch_size // mesh.size * mesh.size
        choices = " or ".join(str(n) for n in (lower, lower + mesh.size) if n)
        raise ValueError(f"batch size {batch_size} cannot be split evenly over {mesh.size} devices: use {choices}")


def per_device(function, mesh: Mesh):
    """``function(shared, batch)`` run by each device for its own images: without any talk between devices.

    Under ``jit`` alone, XLA may let devices agree on something that concerns all images, as on whether a loop may skip
    work. Here each decides for its own, whatever the function does.

    Args:
        function: of two trees of arrays: ``shared`` is whole on every device, every array of ``batch`` and of the
            result begins with the batch.
        mesh: from :func:`data_mesh`; must divide the batch (:func:`check_batch_size`).

    >>> double = per_device(lambda shared, batch: shared * batch, data_mesh(jax.devices()[:1]))
    >>> jax.jit(double)(np.float32(2), np.arange(3, dtype=np.float32)).tolist()
    [0.0, 2.0, 4.0]
    """
    split = PartitionSpec(*mesh.axis_names)
    return jax.shard_map(function, mesh=mesh, in_specs=(PartitionSpec(), split), out_specs=split, check_vma=False)
