"""Training states on disk: whole or passed over, the best ones, on other meshes, as earlier runs wrote them."""
import json

import jax
import numpy as np
import pytest

from indigo_jax import checkpoints, sharding


def garble(folder):
    """Zeros instead of the arrays of a step, as a disk may leave them."""
    for file in (folder / "state").rglob("d/*"):
        file.write_bytes(bytes(file.stat().st_size))


def state(value=1.0):
    return {name: {"kernel": np.full((8, 4), value, np.float32)} for name in ("params", "ema")}


def write(workdir, *steps):
    with checkpoints.manager(workdir) as manager:
        for step in steps:
            checkpoints.save(manager, step, state(step), position={"next_index": step})


def test_damaged_unfinished_and_empty_steps_are_passed_over(tmp_path, capsys):
    write(tmp_path, 1, 2)
    (tmp_path / "checkpoints" / "3").mkdir()
    (tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp").mkdir()
    garble(tmp_path / "checkpoints" / "2")
    assert checkpoints.restore_params(tmp_path)["kernel"][0, 0] == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "3 is damaged" in lines[0] and "2 is damaged" in lines[1]

    assert checkpoints.newest_whole_step(tmp_path) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "checkpoint 3 is damaged" in lines[0] and "going on from step 1" in lines[1]
    assert sorted(path.name for path in (tmp_path / "broken").iterdir()) == ["2", "3"]

    garble(tmp_path / "checkpoints" / "1")
    assert checkpoints.newest_whole_step(tmp_path) is None
    assert "from the start" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="no whole checkpoint"):
        checkpoints.restore_params(tmp_path)
    assert checkpoints.newest_whole_step(tmp_path / "nothing") is None


@pytest.mark.parametrize("file", ["position/metadata", "state/_METADATA", "state/manifest.ocdbt"])
@pytest.mark.parametrize("content", [None, b"", b'{"next_'], ids=["gone", "empty", "cut"])
def test_a_file_that_is_missing_or_cut_damages_a_step(tmp_path, capsys, file, content):
    write(tmp_path, 1)
    path = tmp_path / "checkpoints" / "1" / file
    path.unlink() if content is None else path.write_bytes(content)
    assert checkpoints.newest_whole_step(tmp_path) is None
    assert "checkpoint 1 is damaged" in capsys.readouterr().err


def test_a_damaged_step_set_aside_twice_replaces_nothing(tmp_path, capsys):
    for _ in range(2):
        write(tmp_path, 1)
        garble(tmp_path / "checkpoints" / "1")
        checkpoints.newest_whole_step(tmp_path)
    assert sorted(path.name for path in (tmp_path / "broken").iterdir()) == ["1", "1-2"]


def targets(mesh):
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state())
    return jax.tree.map(lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes,
                        sharding.parameter_shardings(shapes, mesh))


@pytest.mark.parametrize("fsdp", [1, 4])
def test_a_state_comes_back_on_another_mesh(tmp_path, fsdp):
    values = np.arange(32, dtype=np.float32).reshape(8, 4)
    target = targets(sharding.mesh(fsdp=8))
    placed = jax.tree.map(lambda leaf: jax.device_put(values, leaf.sharding), target)
    with checkpoints.manager(tmp_path) as manager:
        assert checkpoints.save(manager, 3, placed, position={"next_index": 3})
        manager.wait_until_finished()
        assert not checkpoints.save(manager, 3, placed, position={"next_index": 3})
        mesh = sharding.mesh(jax.devices()[:4], fsdp=fsdp)
        restored, position = checkpoints.restore(manager, 3, targets(mesh))
    assert position == {"next_index": 3}
    np.testing.assert_array_equal(restored["params"]["kernel"], values)
    shards = restored["params"]["kernel"].addressable_shards
    assert len(shards) == 4 and shards[0].data.size == 32 // fsdp


def test_the_position_of_earlier_runs_is_read(tmp_path):
    with checkpoints.manager(tmp_path) as manager:
        checkpoints.save(manager, 5, state())
        manager.wait_until_finished()
        data = tmp_path / "checkpoints" / "5" / "data"
        data.mkdir()
        (data / "process_0-of-1.json").write_text(json.dumps({"next_index": 5}))
        assert checkpoints.restore(manager, 5, targets(sharding.mesh()))[1] == {"next_index": 5}


@pytest.mark.parametrize("best_by, kept, best", [("score", [2, 4], 4), ("-score", [1, 3], 3)])
def test_the_best_are_kept(tmp_path, best_by, kept, best):
    with checkpoints.manager(tmp_path, max_to_keep=2, best_by=best_by) as manager:
        for step, score in ((1, 0.2), (2, 0.7), (3, 0.1), (4, 0.9)):
            checkpoints.save(manager, step, state(step), scores={"score": score})
    assert sorted(int(folder.name) for folder in (tmp_path / "best").iterdir() if folder.name.isdigit()) == kept
    assert checkpoints.best_step(tmp_path, best_by) == best
    assert checkpoints.restore_params(tmp_path, best_by=best_by)["kernel"][0, 0] == best
    assert checkpoints.latest_step(tmp_path) is None
