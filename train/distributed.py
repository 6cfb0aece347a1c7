"""Start-up of a run on several processes: who coordinates, how many they are, and a hint when one is missing.

Everything else is JAX's own runtime: one process a host, the same program in each.
"""
import argparse
import glob
import importlib.util
import os
import re
import sys
import threading

import jax

HELP = """start-up on several processes (before any device is touched; automatic on TPU pods and under srun):
  --coordinator HOST:PORT  where process 0 listens
  --num-processes N        how many processes there are
  --process-id I           which of them this is, 0 ... N - 1
  --join-timeout SECONDS   how long to wait for the others (default 300)"""


def from_command_line(program: str, argv=None) -> list[str]:
    """Join the other processes if the flags or the environment say that there are any; returns the other arguments.

    Must come before anything that touches a device. A mistake ends the program with exit code 2 and one line; so does a
    process that does not come in time, with a line that says who is missing where.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {program}", add_help=False, allow_abbrev=False)
    parser.add_argument("--coordinator", metavar="HOST:PORT")
    parser.add_argument("--num-processes", type=int, metavar="N")
    parser.add_argument("--process-id", type=int, metavar="I")
    parser.add_argument("--join-timeout", type=int, default=300, metavar="SECONDS")
    flags, rest = parser.parse_known_args(argv)
    if {"-h", "--help"} & set(rest):
        return rest
    try:
        _join(program, flags.coordinator, flags.num_processes, flags.process_id, flags.join_timeout)
    except ValueError as error:
        print(f"{program}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    return rest


def _join(program, coordinator, num_processes, process_id, timeout):
    """Become one of several processes, by hand or as :func:`environment` knows them, unless there is just this one."""
    given = {"--coordinator": coordinator, "--num-processes": num_processes, "--process-id": process_id}
    missing = [name for name, value in given.items() if value is None]
    found = environment() if len(missing) == 3 else (coordinator, num_processes)
    if found is None:
        return
    if timeout < 1:
        raise ValueError(f"--join-timeout {timeout}: it must be at least 1 second")
    if 0 < len(missing) < 3:
        raise ValueError(f"{', '.join(missing)} missing: give --coordinator HOST:PORT, --num-processes N and "
                         "--process-id I together, or none of them on a TPU pod or under srun")
    if not missing and not re.fullmatch(r".+:\d+", coordinator):
        raise ValueError(f"--coordinator {coordinator}: write HOST:PORT, as 10.0.0.1:1234")
    if not missing and not 0 <= process_id < num_processes:
        raise ValueError(f"--process-id {process_id} is not one of 0 ... {num_processes - 1} (--num-processes "
                         f"{num_processes})")
    if jax.config.jax_cpu_collectives_implementation in (None, "none"):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    waiting = threading.Timer(timeout, _give_up, [program, *found, process_id, timeout])
    waiting.daemon = True
    waiting.start()
    try:
        # JAX's own time limit ends the program without a word that helps, so it comes after ours.
        jax.distributed.initialize(coordinator, num_processes, process_id, initialization_timeout=timeout + 60)
    except ValueError:
        if found[0] != _TPU:
            raise  # else a machine with such a device file that is no TPU host
    finally:
        waiting.cancel()


_TPU = "the first worker of this TPU pod"


def environment() -> tuple[str, int | None] | None:
    """Where the coordinator is and how many processes there are (None: not known here), in words; None if alone.

    SLURM counts inside of ``srun`` only: a batch script by itself is one process, whatever the job's size. TPU hosts
    have a device file; JAX asks their metadata for the rest, also where a pod is one host.
    """
    steps = os.environ.get("SLURM_STEP_NUM_TASKS", "")
    if steps.isdigit() and int(steps) > 1 and "SLURM_PROCID" in os.environ:
        return f"the first node of SLURM's {os.environ.get('SLURM_STEP_NODELIST', 'list')}", int(steps)
    size = os.environ.get("OMPI_COMM_WORLD_SIZE", "")
    if size.isdigit() and int(size) > 1:
        return "the first process of mpirun", int(size)
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if (not platforms or "tpu" in platforms) and importlib.util.find_spec("libtpu") and (
            glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*")):
        hosts = [host for host in os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",") if host]
        return _TPU, len(hosts) or None
    return None


def _give_up(program, where, expected, process_id, timeout):
    """Ends the process from a thread: the main one is inside of the runtime and cannot be interrupted."""
    who = "this process" if process_id is None else f"process {process_id}"
    print(f"{program}: {who} waited {timeout} s at coordinator {where} for {expected or 'all'} processes and not all "
          "of them came: start the same command on every host (process 0 on the coordinator's), let its port through, "
          f"or give --join-timeout more than {timeout}", file=sys.stderr, flush=True)
    os._exit(2)
