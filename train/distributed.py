"""Start-up of a run on several processes: who coordinates, how many they are, and a hint when one is missing.

Everything else is JAX's own runtime: one process a host, the same program in each.
"""
import argparse
import glob
import importlib.util
import os
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

    Must come before anything that touches a device. A mistake ends the program with exit code 2 and one line.
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
        join(flags.coordinator, flags.num_processes, flags.process_id, timeout=flags.join_timeout, program=program)
    except ValueError as error:
        print(f"{program}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    return rest


def join(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None, *,
         timeout: int = 300, program: str = "train") -> bool:
    """Become one of several processes; False if there is just this one.

    Args:
        coordinator, num_processes, process_id: by hand, all three; or none, where :func:`environment` knows them.
        timeout: seconds; after them the process ends with exit code 2 and one line that says who is missing where.

    Errors:
        ValueError for some of the three only, or numbers that do not fit together.
    """
    given = {"--coordinator": coordinator, "--num-processes": num_processes, "--process-id": process_id}
    missing = [name for name, value in given.items() if value is None]
    found = environment() if len(missing) == 3 else None
    if len(missing) == 3 and found is None:
        return False
    if timeout < 1:
        raise ValueError(f"--join-timeout {timeout}: it must be at least 1 second")
    if found is None:
        if missing:
            raise ValueError(f"{', '.join(missing)} missing: give --coordinator HOST:PORT, --num-processes N and "
                             "--process-id I together, or none of them on a TPU pod or under srun")
        if not coordinator.rpartition(":")[0] or not coordinator.rpartition(":")[2].isdigit():
            raise ValueError(f"--coordinator {coordinator}: write HOST:PORT, as 10.0.0.1:1234")
        if not 0 <= process_id < num_processes:
            raise ValueError(f"--process-id {process_id} is not one of 0 ... {num_processes - 1} (--num-processes "
                             f"{num_processes})")
    if jax.config.jax_cpu_collectives_implementation in (None, "none"):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")

    where, expected = (coordinator, num_processes) if found is None else found
    waiting = threading.Timer(timeout, _give_up, [program, where, expected, process_id, timeout])
    waiting.daemon = True
    waiting.start()
    try:
        # JAX's own time limit ends the program without a word that helps, so it comes after ours.
        jax.distributed.initialize(coordinator, num_processes, process_id, initialization_timeout=timeout + 60)
    except ValueError:
        if found is None or found[0] != _TPU:
            raise
        return False  # a machine with such a device file that is no TPU host
    finally:
        waiting.cancel()
    return True


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
    count = "all" if expected is None else f"{expected}"
    print(f"{program}: {who} waited {timeout} s at coordinator {where} for {count} processes and not all of them came: "
          f"start the same command on every host (process 0 on the coordinator's), let its port through, or give "
          f"--join-timeout more than {timeout}", file=sys.stderr, flush=True)
    os._exit(2)
