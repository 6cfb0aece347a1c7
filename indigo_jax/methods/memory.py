"""Whether a compiled program fits into the memory that is free, said before it runs."""
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
            return next(1024 * int(line.split()[1]) for line in stream if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None
