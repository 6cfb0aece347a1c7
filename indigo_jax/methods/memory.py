"""Whether a compiled program fits into the memory that is free, said before it runs."""
import pathlib

_LARGE = 512 * 512  # pixels of a canvas from which on that is asked


def check(function, device, *arguments, plan, given):
    """Refuse to run a program on a large canvas that needs more memory than there is: MemoryError."""
    free = free_memory(device) if plan.canvas[0] * plan.canvas[1] >= _LARGE else None
    if free is None:
        return
    facts = function.lower(*arguments, plan=plan, given=given).compile().memory_analysis()  # the call finds the program
    needed = 0 if facts is None else facts.temp_size_in_bytes + facts.output_size_in_bytes
    if needed > free:
        raise MemoryError(f"the program needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free")


def free_memory(device) -> int | None:
    """Bytes that a program on a device may take; None where that is not known."""
    if device.platform != "cpu":
        facts = device.memory_stats() or {}
        return facts["bytes_limit"] - facts["bytes_in_use"] if {"bytes_limit", "bytes_in_use"} <= facts.keys() else None
    try:
        with open("/proc/meminfo", encoding="ascii") as stream:
            free = next(1024 * int(line.split()[1]) for line in stream if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None
    return min([free, *_left_of_groups()])


def _left_of_groups(groups="/proc/self/cgroup", root="/sys/fs/cgroup"):
    """What containers and batch systems leave, bytes, of each control group with a limit that this process is in."""
    try:
        lines = pathlib.Path(groups).read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, kind, path = line.split(":", 2)
        if kind not in ("", "memory"):  # version 2, version 1
            continue
        limit, used, cache = (("memory.max", "memory.current", "inactive_file") if not kind else
                              ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"))
        base = pathlib.Path(root) / kind
        for place in (base / path.strip("/"), *(base / path.strip("/")).parents):
            if not place.is_relative_to(base):
                break
            try:  # what the files of a group hold in memory may be given up, all but what is in use
                counts = dict(each.split() for each in (place / "memory.stat").read_text(encoding="ascii").splitlines())
                taken = int((place / used).read_text(encoding="ascii")) - int(counts.get(cache, 0))
                yield max(int((place / limit).read_text(encoding="ascii")) - taken, 0)
            except (OSError, ValueError):  # no such group here, or "max"
                continue
