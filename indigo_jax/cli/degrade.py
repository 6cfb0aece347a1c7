"""``indigo degrade``: pictures spoiled on purpose, to try restoration on."""
import argparse
import math

from indigo_jax.cli import cache
from indigo_jax.cli.jobs import Steps, gather, notes_of, run_all
from indigo_jax.cli.messages import UsageError, one_line
from indigo_jax.cli.outputs import check_writable, choose_places, write_whole
from indigo_jax.cli.parsing import add_command, add_files, number
from indigo_jax.cli.reports import Report

OPERATORS = {  # name: the flags it takes, with their defaults
    "gaussian-noise": {"sigma_255": 25.0},
    "poisson-noise": {"peak": 30.0},
    "speckle-noise": {"sigma": 0.2},
    "gaussian-blur": {"sigma": 1.6},
    "motion-blur": {"length": 11.0, "angle": 0.0},
    "camera-shake": {"length": 11.0},
    "defocus-blur": {"radius": 3.0},
    "blur": {"kernel": None},
    "downsample": {"factor": 4},
    "downsample-upsample": {"factor": 4},
    "jpeg": {"quality": 10},
    "inpaint-box": {"box": 0.5},
}

_FUNCTIONS = {"downsample-upsample": "super_resolution"}  # of operators, where the name is another
_SYNONYMS = {"sr": "downsample", "super-resolution": "downsample"}  # what restore --task sr undoes


def add(commands):
    """The command's parser."""
    parser = add_command(commands, "degrade", run, "Degrade pictures, to try restoration on.")
    add_files(parser, "degraded")
    parser.add_argument("--operator", required=True, choices=OPERATORS, metavar="NAME", default=argparse.SUPPRESS,
                        type=lambda text: _SYNONYMS.get(text, text),
                        help="; ".join(" ".join([name, *(f"--{flag.replace('_', '-')}" for flag in flags)])
                                       for name, flags in OPERATORS.items())
                        + ". sr is downsample: what restore --task sr undoes; downsample-upsample keeps the size")

    def flag(name, kind, low, high, text):
        defaults = ", ".join(f"{default:g} for {name_}" for name_, flags in OPERATORS.items()
                             for key, default in flags.items() if key == name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=number(kind, low, high), default=argparse.SUPPRESS,
                            metavar="N", help=f"{text} (default: {defaults})")

    flag("sigma_255", float, 0, 1000, "standard deviation of the noise on the 0..255 scale")
    flag("sigma", float, 0, 100, "standard deviation: of the blur in pixels; of speckle relative to the intensity")
    flag("peak", float, 1e-3, 1e6, "photons that white stands for")
    flag("length", float, 1, 512, "of the motion, in pixels")
    flag("angle", float, -360, 360, "of the motion, in degrees, clockwise from the right")
    flag("radius", float, 0, 256, "of the disk that a point becomes, in pixels")
    flag("factor", int, 1, 64, "how many times smaller")
    flag("quality", int, 1, 100, "of JPEG")
    flag("box", float, 0, 1, "side of the missing box in the middle, relative to the picture")
    parser.add_argument("--kernel", metavar="FILE", default=argparse.SUPPRESS, help="for blur: .npy, .npz or .png")


def run(args):
    """Degrade every picture; returns the exit code."""
    taken = OPERATORS[args.operator]
    every = {flag for flags in OPERATORS.values() for flag in flags}
    for flag in sorted(every & set(vars(args))):
        if flag not in taken:
            raise UsageError(f"--{flag.replace('_', '-')} does nothing with {args.operator}, which takes "
                             + ", ".join(f"--{name.replace('_', '-')}" for name in taken))
    values = {flag: getattr(args, flag, default) for flag, default in taken.items()}
    if args.operator == "blur" and values["kernel"] is None:
        raise UsageError("--operator blur needs --kernel FILE (.npy, .npz or .png); or use gaussian-blur, motion-blur")
    jobs, others = gather(args.inputs, args.output)
    places = choose_places(args, jobs, args.output, 1, "--output", [values["kernel"]] if values.get("kernel") else [])
    check_writable(args.output, "--output")

    def begin(job):
        del job
        import jax

        from indigo_jax import images
        from indigo_jax.methods.degrading import degrade
        cache.use(not args.no_cache)
        try:
            operator = _make_operator(args.operator, values)
            devices = jax.local_devices()[:1]
        except (ValueError, OSError) as error:
            raise UsageError(one_line(error)) from error
        except RuntimeError as error:
            raise UsageError(f"no device to compute on ({one_line(error)}); set JAX_PLATFORMS=cpu") from error

        def finish(job, picture, degraded, seconds):
            write_whole(places.of(job)[0], lambda path: images.write(path, degraded))
            height, width = degraded.pixels.shape[:2]
            return f"{width} x {height} pixels, {args.operator}", {}

        def work(job, picture, device, tick):
            return degrade(picture, operator, seed=args.seed)

        return Steps(work, finish, devices, images.read, lambda job, picture: notes_of(job, picture, places))

    def is_done(job):
        return {} if args.skip_existing and places.of(job)[0].exists() else None

    return run_all(args, jobs, others, places, Report(), "degraded", begin, is_done=is_done)


def _make_operator(name, values):
    """An operator, or a function ``(keys, height, width) -> operator`` where it depends on the picture."""
    from indigo_jax import operators

    def shake(keys, height, width):
        size = 2 * math.ceil(values["length"] / 2) + 1
        return operators.blur(operators.motion_kernel(keys, size=size, length=values["length"]))

    def box(keys, height, width):
        tall, wide = round(values["box"] * height), round(values["box"] * width)
        return operators.inpaint(operators.box_mask(height, width, top=(height - tall) // 2, left=(width - wide) // 2,
                                                    box_height=tall, box_width=wide))

    if name in ("camera-shake", "inpaint-box"):
        return shake if name == "camera-shake" else box
    read = {"kernel": operators.load_kernel, "angle": math.radians}
    values = {flag: read.get(flag, lambda value: value)(value) for flag, value in values.items()}
    return getattr(operators, _FUNCTIONS.get(name, name.replace("-", "_")))(**values)
