"""Training on one device, on eight, with sharded parameters, microbatches, two processes: the same run each time."""
import csv
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from indigo_jax import checkpoints, sharding
from tests.paths import ROOT
from tests.test_checkpoints import garble
from tests.tiny_training import numbers, tiny, write_pictures
from train import distributed, indi, loop


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures") / "all")


@pytest.fixture(scope="module")
def one_device(pictures, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one_device")
    state = indi.train(tiny(pictures, workdir), mesh=sharding.mesh(jax.devices()[:1]))
    return logged(workdir), numbers(state), workdir


def logged(workdir):
    with (pathlib.Path(workdir) / "metrics.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def assert_same(left, right, tolerance):
    assert len(left) == len(right)
    for a, b in zip(left, right):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("changes", [{}, {"fsdp": 4, "accumulate": 2, "remat": "convolutions"}], ids=str)
def test_losses_do_not_depend_on_how_the_work_is_spread(pictures, one_device, tmp_path, changes):
    state = indi.train(tiny(pictures, tmp_path, **changes))
    assert len(logged(tmp_path)) == 20
    np.testing.assert_allclose(logged(tmp_path), one_device[0], rtol=0, atol=1e-5)
    assert_same(numbers(state), one_device[1], 1e-4)
    kernel = state.params["params"]["conv_in"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // changes.get("fsdp", 1)
    assert state.ema["params"]["conv_in"]["kernel"].sharding == kernel.sharding
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape == kernel.shape]
    assert len(moments) == 2 and all(leaf.sharding == kernel.sharding for leaf in moments)


def step_text(mesh, **changes):
    config = tiny("", "", **changes)
    optimizer = loop.make_optimizer(config)
    state = jax.eval_shape(lambda: loop.init_state(config, optimizer))
    shardings = sharding.parameter_shardings(state, mesh, rules=config.sharding_rules)
    step = loop.jit_step(lambda state, batch: indi.train_step(config, optimizer, state, batch), mesh, shardings)
    state = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), state, shardings)
    batch = {"image": jax.ShapeDtypeStruct((16, 8, 8, 3), np.uint8, sharding=sharding.batch_sharding(mesh))}
    return step.lower(state, batch).compile().as_text()


def test_sharded_parameters_are_gathered_and_nothing_else_travels_in_microbatches():
    assert re.search(r"all-gather(-start)?\(", step_text(sharding.mesh(fsdp=4)))
    plain = step_text(sharding.mesh(), accumulate=2)
    assert "all-reduce" in plain
    assert not re.search(r"(all-gather|all-to-all|collective-permute)(-start)?\(", plain)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_microbatches_have_the_gradient_of_the_whole_batch(parts):
    config = tiny("", "", accumulate=parts)
    x, y = np.random.default_rng(0).normal(size=(2, 8, 3)).astype(np.float32)

    def loss(params, batch):
        return jax.numpy.mean((batch["x"] @ params - batch["y"]) ** 2)

    params = np.eye(3, dtype=np.float32)
    value, gradient = loop._value_and_grad(config, loss, params, ({"x": x, "y": y},))
    residual = x.astype(np.float64) @ params - y
    np.testing.assert_allclose(value, np.mean(residual**2), rtol=1e-6)
    np.testing.assert_allclose(gradient, 2 * x.T.astype(np.float64) @ residual / residual.size, atol=1e-6)


def test_switches_leave_the_parameters_alone(pictures, one_device, tmp_path):
    state = indi.train(tiny(pictures, tmp_path, precision="bfloat16", num_steps=3))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.params)} == {"float32"}
    np.testing.assert_allclose(logged(tmp_path), one_device[0][:3], rtol=0.05)
    assert logged(tmp_path) != one_device[0][:3]
    assert checkpoints.read_config(tmp_path)["arguments"]["dtype"] == "float32"
    assert loop.network(tiny("", "", remat="blocks")).remat


@pytest.mark.parametrize("changes, message", [
    (dict(model=object(), remat="blocks"), "no switch 'remat'"),
    (dict(model=object(), precision="bfloat16"), "no switch 'dtype'"),
    (dict(keep_best=2), "go together"),
    (dict(keep_best=2, best_by="eval_psnr"), "eval_every is 0"),
    (dict(accumulate=0), "accumulate must be above 0"),
])
def test_wrong_switches_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny("", "", **changes)


def test_wrong_meshes_and_batches_are_refused(pictures, tmp_path):
    with pytest.raises(ValueError, match="fsdp 3 does not divide the 8 devices"):
        indi.train(tiny(pictures, tmp_path, fsdp=3))
    with pytest.raises(ValueError, match="8 devices and 4 microbatches: use 32"):
        indi.train(tiny(pictures, tmp_path, accumulate=4))
    with pytest.raises(ValueError, match="best_by names 'fid'; the scores are eval_psnr"):
        indi.train(tiny(pictures, tmp_path, eval_every=1, keep_best=1, best_by="fid"))


# ---------------------------------------------------------------------------------------------------- checkpoints

def test_a_damaged_newest_step_is_passed_over_and_named(pictures, one_device, tmp_path, capsys):
    mesh = sharding.mesh(jax.devices()[:1])
    indi.train(tiny(pictures, tmp_path, num_steps=15, warmup_steps=0), mesh=mesh)
    garble(tmp_path / "checkpoints" / "15")
    capsys.readouterr()
    older = checkpoints.restore_params(tmp_path)
    assert "15 is damaged" in capsys.readouterr().err
    with checkpoints.manager(tmp_path) as manager:
        assert manager.latest_step() == 15
    assert checkpoints.newest_whole_step(tmp_path) == 10
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) == 1 and re.search(r"checkpoint 15 is damaged \(.+\): moved to .*15, going on from step 10",
                                         lines[0])
    assert_same(numbers(older), numbers(checkpoints.restore_params(tmp_path)), 0)
    assert (tmp_path / "broken" / "15").is_dir()
    indi.train(tiny(pictures, tmp_path, num_steps=15, warmup_steps=0, fsdp=4))  # saved again, from another mesh
    assert checkpoints.newest_whole_step(tmp_path) == 15


def test_a_run_keeps_its_best(pictures, tmp_path, monkeypatch):
    scores = iter([30.0, 20.0, 25.0])

    def evaluate(params):
        assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(params))  # whole, whatever the mesh
        return {"eval_psnr": next(scores), "eval_psnr_gain": 0.0}, [[np.zeros((4, 4, 3))]]

    monkeypatch.setattr(indi, "evaluation", lambda config, source: evaluate)
    indi.train(tiny(pictures, tmp_path, num_steps=3, eval_every=1, keep_best=1, best_by="-eval_psnr", fsdp=4))
    assert checkpoints.best_step(tmp_path, "-eval_psnr") == 2
    assert not (tmp_path / "best" / "1").exists()


def test_sigterm_saves_and_the_next_start_goes_on(pictures, one_device, tmp_path, monkeypatch, capsys):
    """Asked to stop in step 7 (checkpoints: every 5): step 7 is saved, and the next run begins with batch 8."""
    mesh, before, calls = sharding.mesh(jax.devices()[:1]), sharding.put_batch, []

    def signal_in_step_7(batch, mesh):
        calls.append(batch["id"].tolist())
        if len(calls) == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return before(batch, mesh)

    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sharding, "put_batch", signal_in_step_7)
    assert int(indi.train(tiny(pictures, tmp_path), mesh=mesh).step) == 7 == checkpoints.latest_step(tmp_path)
    assert signal.getsignal(signal.SIGTERM) is handler
    assert "stopped by SIGTERM after step 7 of 20" in capsys.readouterr().err
    state = indi.train(tiny(pictures, tmp_path), mesh=mesh)
    assert len(calls) == 20
    assert_same(numbers(state), one_device[1], 0)
    assert logged(tmp_path) == one_device[0]


# ---------------------------------------------------------------------------------------------------- start-up

@pytest.mark.parametrize("flags, message", [
    (["--coordinator", "127.0.0.1:1"], "--num-processes, --process-id missing"),
    (["--coordinator", "somewhere", "--num-processes", "2", "--process-id", "0"], "write HOST:PORT"),
    (["--coordinator", "a:1", "--num-processes", "2", "--process-id", "2"], "not one of 0 ... 1"),
    (["--coordinator", "a:1", "--num-processes", "2", "--process-id", "0", "--join-timeout", "0"], "at least 1 second"),
])
def test_wrong_start_up_flags_end_with_one_line(flags, message, capsys):
    with pytest.raises(SystemExit) as stop:
        distributed.from_command_line("train.indi", flags)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_the_environment_says_who_is_there(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("SLURM", "OMPI", "TPU")):
            monkeypatch.delenv(name)
    assert distributed.environment() is None
    assert distributed.from_command_line("train.indi", ["--config", "a.py"]) == ["--config", "a.py"]
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert distributed.environment() is None  # a batch script outside of srun
    for name, value in (("SLURM_STEP_NUM_TASKS", "4"), ("SLURM_PROCID", "1"), ("SLURM_STEP_NODELIST", "node[1-4]")):
        monkeypatch.setenv(name, value)
    where, count = distributed.environment()
    assert "node[1-4]" in where and count == 4


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(pictures, workdir, count, index, port, *flags, output):
    """One process of ``count`` that train with four devices together."""
    join = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", str(count), "--process-id", str(index)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu",
                   "XLA_FLAGS": f"--xla_force_host_platform_device_count={4 // count}"}
    return subprocess.Popen(
        [sys.executable, "-m", "train.indi", "--config", str(ROOT / "tests" / "tiny_training.py"), "--data",
         str(pictures), "--workdir", str(workdir), *flags, *(join if count > 1 else [])],
        cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=output)


def start_all(pictures, workdir, count, *flags, folder):
    """Processes, and the file with the messages of each."""
    port, processes = free_port(), []
    files = [folder / f"{time.monotonic_ns()}-{index}.log" for index in range(count)]
    for index, file in enumerate(files):
        with file.open("wb") as output:
            processes.append(start(pictures, workdir, count, index, port, *flags, output=output))
    return processes, files


def text(file):
    return file.read_text(errors="replace")


def wait_for(line, process, file, patience=600):
    end = time.monotonic() + patience
    while line not in text(file) and time.monotonic() < end:
        assert process.poll() is None, text(file)[-2000:]
        time.sleep(0.01)
    assert line in text(file)


@pytest.mark.slow
def test_a_missing_host_is_named(pictures, tmp_path):
    with (tmp_path / "log").open("wb") as output:
        process = start(pictures, tmp_path / "run", 2, 1, free_port(), "--join-timeout", "3", output=output)
        assert process.wait(timeout=300) == 2
    assert re.search(r"process 1 waited 3 s at coordinator 127.0.0.1:\d+ for 2 processes", text(tmp_path / "log"))


@pytest.mark.slow
def test_a_picture_that_one_process_cannot_read_ends_both_at_once(pictures, tmp_path):
    """Each reads a folder of its own, as hosts with their own disks do."""
    others = shutil.copytree(pictures, tmp_path / "others")
    damaged = others / "train" / "3.png"
    damaged.write_bytes(damaged.read_bytes()[:300])
    port, logs = free_port(), [tmp_path / "0.log", tmp_path / "1.log"]
    processes = []
    for index, (folder, log) in enumerate(zip((pictures, others), logs)):
        with log.open("wb") as output:
            processes.append(start(folder, tmp_path / "run", 2, index, port, output=output))
    assert [process.wait(timeout=90) for process in processes] == [2, 2], text(logs[0])[-2000:]
    assert "another process cannot read some of the pictures" in text(logs[0])
    assert f"{damaged}: a truncated or damaged PNG" in text(logs[1])


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_stops_both_together(pictures, tmp_path):
    processes, files = start_all(pictures, tmp_path / "run", 2, "--num-steps", "100000", "--checkpoint-every", "20",
                                 folder=tmp_path)
    wait_for("step 20: saved", processes[0], files[0])
    processes[1].send_signal(signal.SIGTERM)
    assert [process.wait(timeout=300) for process in processes] == [0, 0], text(files[0])[-2000:]
    stopped = int(re.search(r"stopped by SIGTERM after step (\d+)", text(files[0])).group(1))
    assert checkpoints.latest_step(tmp_path / "run") == stopped


@pytest.mark.slow
def test_two_processes_killed_ten_times_end_as_one_that_was_not(pictures, tmp_path):
    """kill -9 of both at random moments, at last one process alone; nothing that was announced is lost."""
    flags = ("--num-steps", "400", "--checkpoint-every", "5")
    calm, files = start_all(pictures, tmp_path / "calm", 1, *flags, folder=tmp_path)
    assert calm[0].wait(timeout=600) == 0, text(files[0])[-2000:]

    rng, workdir, announced, kills = np.random.default_rng(0), tmp_path / "killed", 0, 0
    for _ in range(30):
        processes, files = start_all(pictures, workdir, 2, *flags, folder=tmp_path)
        wanted, end = announced + int(rng.integers(0, 3)) * 5, time.monotonic() + 600
        while time.monotonic() < end and processes[0].poll() is None:
            found = re.findall(r"step (\d+): saved", text(files[0]))
            if found and int(found[-1]) > wanted:
                break
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        assert processes[0].poll() is None, text(files[0])[-2000:]
        for process in rng.permutation(processes):
            process.kill()
        for process in processes:
            process.wait()
        kills += 1
        announced = max([announced, *map(int, re.findall(r"step (\d+): saved", text(files[0])))])
        assert checkpoints.latest_step(workdir) >= announced
        if kills == 10:
            break
    assert kills == 10 and announced > 50

    processes, files = start_all(pictures, workdir, 2, *flags, folder=tmp_path)  # two go on for a while
    wait_for(f"step {announced + 10}: saved", processes[0], files[0])
    processes[0].send_signal(signal.SIGTERM)
    assert [process.wait(timeout=600) for process in processes] == [0, 0], text(files[0])[-2000:]
    assert announced + 10 <= checkpoints.latest_step(workdir) < 400
    processes, files = start_all(pictures, workdir, 1, *flags, folder=tmp_path)  # then one alone
    assert processes[0].wait(timeout=600) == 0, text(files[0])[-2000:]
    for ema in (True, False):
        assert_same(numbers(checkpoints.restore_params(workdir, ema=ema)),
                    numbers(checkpoints.restore_params(tmp_path / "calm", ema=ema)), 1e-6)
