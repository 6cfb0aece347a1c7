"""Meshes, rules for parameters, batches: who holds what."""
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from indigo_jax import sharding

TREE = {"conv": {"kernel": np.zeros((3, 3, 4, 8)), "bias": np.zeros(8)}, "odd": {"kernel": np.zeros((3, 5))},
        "tall": {"kernel": np.zeros((16, 8))}}


def test_a_mesh_has_two_axes_and_takes_any_devices():
    assert dict(sharding.mesh(fsdp=4).shape) == {"data": 2, "fsdp": 4}
    assert dict(sharding.mesh(jax.devices()[:3]).shape) == {"data": 3, "fsdp": 1}
    for fsdp in (0, 3, 16):
        with pytest.raises(ValueError, match=f"fsdp {fsdp} does not divide the 8 devices"):
            sharding.mesh(fsdp=fsdp)


def test_the_largest_axis_that_divides_is_split():
    specs = sharding.parameter_specs(TREE, AbstractMesh((2, 4), ("data", "fsdp")))
    assert specs == {"conv": {"kernel": PartitionSpec(None, None, None, "fsdp"), "bias": PartitionSpec()},
                     "odd": {"kernel": PartitionSpec()}, "tall": {"kernel": PartitionSpec("fsdp")}}
    for mesh in (AbstractMesh((8, 1), ("data", "fsdp")), AbstractMesh((8,), ("data",))):
        assert set(jax.tree.leaves(sharding.parameter_specs(TREE, mesh))) == {PartitionSpec()}


def test_rules_go_by_name_and_the_first_decides():
    mesh = AbstractMesh((2, 4), ("data", "fsdp"))
    specs = sharding.parameter_specs(TREE, mesh, rules=((r"^tall/", "replicated"), (r"kernel|bias", "sharded")))
    assert specs["tall"]["kernel"] == PartitionSpec() and specs["conv"]["bias"] == PartitionSpec("fsdp")
    with pytest.raises(ValueError, match="parameter conv/bias: no rule fits"):
        sharding.parameter_specs(TREE, mesh, rules=((r"kernel", "sharded"),))
    with pytest.raises(ValueError, match="rule 'split' of parameter conv/bias"):
        sharding.parameter_specs(TREE, mesh, rules=((r"", "split"),))


def test_parameters_and_moments_lie_alike():
    params = jax.tree.map(jnp.asarray, TREE)
    state = {"params": params, "ema": params, "opt_state": optax.adam(1e-3).init(params)}
    specs = sharding.parameter_specs(state, AbstractMesh((1, 4), ("data", "fsdp")))
    moments = specs["opt_state"][0]
    assert specs["params"] == specs["ema"] == moments.mu == moments.nu
    assert moments.count == PartitionSpec()


@pytest.mark.parametrize("fsdp", [1, 2])
def test_gathered_parameters_have_the_same_gradient_and_it_is_split(fsdp):
    mesh, x = sharding.mesh(fsdp=fsdp), np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    params = {"kernel": np.ones((4, 2), np.float32)}
    placed = jax.device_put(params, sharding.parameter_shardings(params, mesh))

    @jax.jit
    def gradient(params, x):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return jax.grad(lambda params: jnp.sum(jnp.sin(x @ sharding.gathered(params)["kernel"])))(params)

    out = gradient(placed, sharding.put_batch({"x": x}, mesh)["x"])["kernel"]
    np.testing.assert_allclose(out, x.T @ np.cos(x @ params["kernel"]), rtol=1e-5)
    if fsdp > 1:
        assert out.sharding.spec == PartitionSpec("fsdp")
    assert sharding.gathered(params) is params


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_a_batch_lies_in_its_order_whatever_that_of_the_devices(order):
    mesh = sharding.data_mesh(jax.devices()[order])
    rows = np.arange(48).reshape(16, 3)
    placed = sharding.put_batch({"rows": rows}, mesh)["rows"]
    np.testing.assert_array_equal(placed, rows)
    assert placed.sharding == sharding.batch_sharding(mesh)
    np.testing.assert_array_equal(sharding.process_rows(16, mesh), np.arange(16))
    np.testing.assert_array_equal(sharding.gather({"rows": placed})["rows"], rows)


@pytest.mark.parametrize("processes", [[0, 0, 1, 1], [0, 1, 0, 1], [1, 0, 0, 1], [2, 1, 0, 1]])
def test_every_row_belongs_to_one_process(monkeypatch, processes):
    class Device:
        def __init__(self, process_index):
            self.process_index = process_index

    places = {Device(index): (slice(2 * i, 2 * i + 2),) for i, index in enumerate(processes)}
    monkeypatch.setattr(sharding, "batch_sharding",
                        lambda mesh: types.SimpleNamespace(devices_indices_map=lambda shape: places))
    shares = [sharding.process_rows(8, None, process_index=index) for index in sorted(set(processes))]
    assert sorted(np.concatenate(shares).tolist()) == list(range(8))
    for index, share in zip(sorted(set(processes)), shares):
        assert {processes[row // 2] for row in share} == {index} and (np.diff(share) > 0).all()


@pytest.mark.parametrize("count, size", [(0, 4), (1, 4), (4, 4), (5, 8)])
def test_padding_is_masked(count, size):
    rows = np.arange(count * 2, dtype=np.uint8).reshape(count, 2)
    batch, mask = sharding.pad_batch({"a": rows, "id": np.arange(count)}, 4)
    assert batch["a"].shape == (size, 2) and batch["a"].dtype == np.uint8 and mask.dtype == bool
    assert mask.tolist() == [True] * count + [False] * (size - count)
    np.testing.assert_array_equal(batch["a"][:count], rows)
    for name in batch:
        assert (batch[name][count:] == (batch[name][count - 1] if count else 0)).all()


def test_batches_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"have \[1, 2\] rows"):
        sharding.pad_batch({"a": np.zeros(1), "b": np.zeros(2)}, 2)
    with pytest.raises(ValueError, match="multiple is 0"):
        sharding.pad_batch({"a": np.zeros(1)}, 0)
    with pytest.raises(ValueError, match="12 cannot be split evenly over 8 devices: use 8 or 16"):
        sharding.check_batch_size(12, sharding.mesh(fsdp=2))
    with pytest.raises(ValueError, match="8 devices and 2 microbatches: use 16"):
        sharding.check_batch_size(8, sharding.mesh(), parts=2)


def test_each_device_decides_alone_on_two_axes():
    mesh = sharding.mesh(fsdp=4)
    total = sharding.per_device(lambda shared, rows: shared + jnp.zeros_like(rows) + jnp.sum(rows), mesh)
    rows = np.arange(16, dtype=np.float32)
    np.testing.assert_array_equal(jax.jit(total)(np.float32(1), rows), 1 + np.repeat(rows.reshape(8, 2).sum(1), 2))


# ---------------------------------------------------------------------------------------------------- turns

def test_devices_take_turns_and_results_come_in_order():
    out = [(item, future.result()) for item, future in sharding.over_devices(
        lambda item, device: (device, 10 * item), range(7), "abc")]
    assert out == [(i, ("abc"[i % 3], 10 * i)) for i in range(7)]


def test_one_failure_is_one_items_own():
    def work(item, device):
        if item == 1:
            raise ValueError("this one")
        return item
    futures = [future for _, future in sharding.over_devices(work, range(3), "a")]
    assert [future.exception() is None for future in futures] == [True, False, True]


def test_only_a_few_items_are_read_ahead():
    drawn = []

    def items():
        for i in range(50):
            drawn.append(i)
            yield i
    runs = sharding.over_devices(lambda item, device: item, items(), "ab")
    next(runs)
    assert len(drawn) <= 4
    runs.close()
    assert len(drawn) <= 4


def test_same_program_with_threads_that_change_often():
    mesh = sharding.data_mesh()
    add = sharding.same_program(lambda shared, batch: {"sum": batch["x"] + sum(v.sum() for v in shared.values())}, mesh)
    batch, before = sharding.put_batch({"x": np.arange(16, dtype=np.float32)}, mesh), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for i in range(30):  # fresh arrays each time: they are split over the devices at first use
            shared = jax.device_put({str(k): np.full(8, i, np.float32) for k in range(30)}, sharding.replicated(mesh))
            result = add(shared, batch)["sum"]
            assert result.sharding == batch["x"].sharding and result.tolist() == [240 * i + k for k in range(16)]
    finally:
        sys.setswitchinterval(before)
