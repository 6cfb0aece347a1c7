"""``indigo cache``: compiled programs that are kept, so that a later run need not compile them again."""
import contextlib
import hashlib
import os
import pathlib
import platform
import warnings

from indigo_jax.cli.messages import UsageError, show
from indigo_jax.cli.parsing import add_command

_LARGEST = 2 * 2**30  # bytes above which the oldest programs go
_WORTH = 0.1  # seconds of compilation from which a program is kept


def add(commands):
    """The command's parsers."""
    parser = add_command(commands, "cache", run, "The compiled programs that are kept, and how to be rid of them.")
    parser.add_argument("action", nargs="?", choices=("show", "clear"), default="show", metavar="show|clear", help=(
        "clear: remove them; weights in the same folder stay"))


def run(args):
    """Show the folder and its size, or empty it; returns the exit code."""
    programs = list(_programs())
    if args.action == "clear":
        for path, _ in programs:
            try:
                path.unlink()
            except OSError as error:
                raise UsageError(f"{show(path)}: cannot be removed ({error.strerror})") from error
    size = sum(facts.st_size for _, facts in programs) / 2**20
    print(f"{show(folder())}: {len(programs)} compiled programs, {size:.1f} MiB"
          + (", removed" if args.action == "clear" else ""))
    return 0


def folder() -> pathlib.Path:
    """Where programs are kept: ``programs`` in the folder of :func:`weights.cache_folder`."""
    from indigo_jax import weights
    return weights.cache_folder() / "programs"


def use(is_wanted: bool = True) -> None:
    """Let jax keep the programs of this process, and find those of others; call it before anything is compiled.

    Whoever has told jax of a folder, as by ``JAX_COMPILATION_CACHE_DIR``, keeps it. Programs are machine code: each
    kind of processor has a folder of its own, and one that others may write to is not used.
    """
    import jax
    if not is_wanted:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if jax.config.jax_compilation_cache_dir:
        return
    place = folder() / _processor()
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = place.stat()
    except OSError:
        return
    if hasattr(os, "geteuid") and (facts.st_uid != os.geteuid() or facts.st_mode & 0o022):
        return
    _trim()
    jax.config.update("jax_compilation_cache_dir", str(place))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _WORTH)
    # of a process that was killed while it wrote: is compiled anew
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")


def _programs():
    """Each file with its ``os.stat``."""
    for path in sorted(folder().rglob("*")):
        with contextlib.suppress(OSError):
            if path.is_file():
                yield path, path.stat()


def _trim():
    programs = sorted(_programs(), key=lambda each: each[1].st_mtime)
    size = sum(facts.st_size for _, facts in programs)
    for path, facts in programs:
        if size <= _LARGEST:
            break
        with contextlib.suppress(OSError):
            path.unlink()
            size -= facts.st_size


def _processor():
    """A name for what machine code of this processor runs on."""
    kind = f"{platform.system()} {platform.machine()} {platform.processor()}"
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        kind += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(kind.encode()).hexdigest()[:12]
