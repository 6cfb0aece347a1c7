"""How much memory is free: of the machine, and of the control groups of containers and batch systems."""
import jax
import pytest

from indigo_jax.methods import memory

GIB = 2**30


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


@pytest.fixture
def left(tmp_path):
    def found(groups):
        (tmp_path / "cgroup").write_text(groups)
        return sorted(memory._left_of_groups(tmp_path / "cgroup", tmp_path))
    return found


def test_a_group_of_version_two_and_those_above_it(left, tmp_path):
    """Files that a group has read count as used, but are given up when memory is wanted."""
    write(tmp_path / "job/step", memory__max="max", memory__current=GIB, memory__stat="anon 1\ninactive_file 0")
    write(tmp_path / "job", memory__max=4 * GIB, memory__current=3 * GIB,
          memory__stat=f"anon {2 * GIB}\ninactive_file {GIB}")
    assert left("0::/job/step\n") == [2 * GIB]
    assert left("0::/job\n") == [2 * GIB] and left("0::/\n") == left("0::/gone\n") == []


def test_a_group_of_version_one(left, tmp_path):
    write(tmp_path / "memory/slurm", memory__limit_in_bytes=8 * GIB, memory__usage_in_bytes=9 * GIB,
          memory__stat=f"total_inactive_file {GIB // 2}")
    assert left("5:cpu:/slurm\n4:memory:/slurm\n") == [0]  # more than it may


def test_without_groups_it_is_the_machine(tmp_path, monkeypatch):
    assert list(memory._left_of_groups(tmp_path / "none", tmp_path)) == []
    whole = memory.free_memory(jax.devices("cpu")[0])
    monkeypatch.setattr(memory, "_left_of_groups", lambda: [12345])
    assert memory.free_memory(jax.devices("cpu")[0]) == 12345 < whole
