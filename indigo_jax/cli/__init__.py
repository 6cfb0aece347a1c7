"""The command line: ``indigo restore | degrade | evaluate | weights``. Thin: it parses, names files and reports.

Exit codes: 0 all done; 1 some file failed, each named with its reason, the others written; 2 wrong usage, one line that
says what to type instead. Only the standard library is imported before something has to be computed.
"""
import argparse
import difflib
import math
import os
import re
import sys

from indigo_jax import __version__
from indigo_jax.cli import evaluate, guided, restore, weights
from indigo_jax.cli.jobs import choose_targets, gather, run_all
from indigo_jax.cli.messages import UsageError, one_line

TASKS = ("auto", "denoise", "deblur", "nonuniform", "sr", "jpeg", "inpaint", "ct")

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
    "super-resolution": {"factor": 4},
    "jpeg": {"quality": 10},
    "inpaint-box": {"box": 0.5},
}


def main(argv=None) -> int:
    """Run one command; returns the exit code. ``--help`` and ``--version`` leave by ``SystemExit(0)``."""
    prog = "indigo"
    try:
        args, unknown = _parser().parse_known_args(argv)
        prog = args.parser.prog
        if unknown:
            raise UsageError(_unknown_arguments(args.parser, unknown))
        return args.run(args)
    except UsageError as error:
        print(f"{error.prog or prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; what has been written is whole, the rest is not there", file=sys.stderr)
        if argv is None:  # a process of our own: do not wait for the picture that is being computed
            sys.stdout.flush()
            os._exit(130)
        return 130


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options):
        super().__init__(allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter, **options)

    def error(self, message):
        found = re.match(r"argument ([^:]*): invalid choice: '(.*)' \(choose from (.*)\)$", message, re.DOTALL)
        if found:
            choices = [choice.strip(" '") for choice in found[3].split(",")]
            message = f"unknown {found[1]} {found[2]!r}; {_did_you_mean(found[2], choices)}"
        elif "required: " in message:
            message = f"{message}; see {self.prog} --help"
        wrong = UsageError(message)
        wrong.prog = self.prog
        raise wrong


def _did_you_mean(word, choices):
    close = difflib.get_close_matches(word, choices, n=1)
    return (f"did you mean {close[0]!r}? " if close else "") + f"There is: {', '.join(choices)}"


def _unknown_arguments(parser, unknown):
    flag = next((word for word in unknown if word.startswith("-")), unknown[0])
    options = [option for option in parser._option_string_actions if option.startswith("--")]
    if not flag.startswith("-"):
        return f"unexpected argument {flag!r}; see {parser.prog} --help"
    return f"unknown option {flag.split('=')[0]}; {_did_you_mean(flag.split('=')[0], options)}"


def _number(kind, low, high, unit=""):
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            what = "a whole number" if kind is int else "a number"
            limits = f"from {low} to {high}" if math.isfinite(high) else f"of at least {low}"
            raise argparse.ArgumentTypeError(f"give {what} {limits}{unit}, not {text!r}")
        return value
    return parse


def _grid(text):
    found = re.fullmatch(r"([1-8])x([1-8])", text)
    if not found:
        raise argparse.ArgumentTypeError(f"give ROWSxCOLUMNS, 1 to 8 of each, as 2x3, not {text!r}")
    return int(found[1]), int(found[2])


def _parser():
    parser = _Parser(prog="indigo", description="Restore pictures: noise, blur, low resolution, JPEG artefacts.")
    parser.add_argument("--version", action="version", version=f"indigo_jax {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_restore(commands)
    _add_degrade(commands)
    _add_evaluate(commands)
    _add_weights(commands)
    return parser


def _command(commands, name, run, description):
    parser = commands.add_parser(name, help=description, description=description)
    parser.set_defaults(run=run, parser=parser)
    return parser


def _add_files(parser, verb):
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="picture files, or folders (with all below)")
    parser.add_argument("-o", "--output", required=True, metavar="OUTPUT", default=argparse.SUPPRESS, help=(
        f"where the {verb} picture goes: a picture name for one INPUT file, else a folder, which keeps the subfolders "
        "of INPUT and gets PNG files, so that nothing is lost by saving"))
    parser.add_argument("--skip-existing", action="store_true", help="leave out pictures whose result is already there")
    parser.add_argument("--seed", type=_number(int, 0, 2**32 - 1), default=0, help="of all noise")


def _add_restore(commands):
    parser = _command(commands, "restore", restore.run, "Restore pictures.")
    _add_files(parser, "restored")
    parser.add_argument("--method", choices=restore.METHODS, default="indi", help=(
        "indi: a network that restores directly; bird: a diffusion prior and what is known of the damage; indigo, "
        "latent-indigo: a diffusion prior, and an invertible network that has learned the damage. Those enlarge as the "
        "network was made for, by 4"))
    parser.add_argument("--task", choices=TASKS, default="auto", help=(
        "what to undo; auto: whatever the network finds. sr also enlarges, by --scale. nonuniform: blur that changes "
        "across the picture. ct: INPUT are sinograms, .npy files [detectors, angles] of sums along parallel rays, as "
        "scikit-image's radon makes them of densities in 0..1"))
    parser.add_argument("--weights", metavar="NAME|PATH", default=argparse.SUPPRESS, help=(
        "see: indigo weights list (default: " + "; ".join(f"{name} for {method}" for method, name in
                                                          restore.DEFAULT_WEIGHTS.items() if name) + ")"))
    parser.add_argument("--steps", type=_number(int, 1, 10_000), default=argparse.SUPPRESS, help=(
        "indi: 1 is nearest to the truth on average; about 5 look sharper where detail was lost, as by blur or 4x sr "
        "(default: 1). indigo, latent-indigo: of the sampler (default: 100)"))
    parser.add_argument("--mask", metavar="FILE", default=argparse.SUPPRESS, help=(
        "bird, inpaint: a picture of the same size, white where the other is to be filled"))
    parser.add_argument("--kernel", metavar="FILE", default=argparse.SUPPRESS, help=(
        "bird, deblur: the blur kernel where it is known: .npy, .npz or .png"))
    parser.add_argument("--kernel-size", type=_number(int, 3, 63, " pixels"), metavar="N", default=argparse.SUPPRESS,
                        help="bird, deblur or nonuniform: side of the unknown kernel, odd (default: unknown, up to 25)")
    parser.add_argument("--kernel-family", choices=("free", "gaussian", "motion"), default=argparse.SUPPRESS, help=(
        "bird, deblur: what is known of the kernel: motion is straight (default: free, nothing)"))
    parser.add_argument("--grid", type=_grid, metavar="ROWSxCOLUMNS", default=argparse.SUPPRESS, help=(
        "bird, nonuniform: how many kernels (default: 2x2)"))
    parser.add_argument("--candidates", type=_number(int, 1, 64), metavar="N", default=argparse.SUPPRESS,
                        help="bird, deblur or nonuniform: of so many tries the one that explains the picture best "
                             "(default: 1)")
    parser.add_argument("--sigma-255", type=_number(float, 0, 255), metavar="N", default=argparse.SUPPRESS,
                        help="bird: noise level of the picture on the 0..255 scale; for ct of the mean along a ray, "
                             "white being 255 (default: estimated)")
    parser.add_argument("--angles", metavar="FILE", default=argparse.SUPPRESS, help=(
        "bird, ct: the angles in degrees, .npy or text (default: evenly spaced over 180)"))
    parser.add_argument("--samples", type=_number(int, 1, 1000), default=1, help=(
        "independent restorations of each picture, NAME-1, NAME-2, ..."))
    parser.add_argument("--scale", type=_number(int, 1, 16), help="with --task sr: how much larger (default: 4)",
                        default=argparse.SUPPRESS)
    parser.add_argument("--tile", type=_number(int, 64, 16384, " pixels"), metavar="N", default=argparse.SUPPRESS,
                        help="largest side of the pieces that large pictures are restored in; less needs less memory "
                             "(default: 1024). indigo, latent-indigo: of those that the prior sees (default: the side "
                             "that it has learned)")
    guided.add_flags(parser, _number)
    parser.add_argument("--compare", metavar="FILE", default=argparse.SUPPRESS, help=(
        "also write before | after as one picture (ct: filtered back-projection | after); a folder for several"))
    parser.add_argument("--report", metavar="FILE.json", default=argparse.SUPPRESS, help=(
        "also write what was done: sizes, seconds, weights, device"))


def _add_degrade(commands):
    parser = _command(commands, "degrade", _degrade, "Degrade pictures, to try restoration on.")
    _add_files(parser, "degraded")
    parser.add_argument("--operator", required=True, choices=OPERATORS, metavar="NAME", default=argparse.SUPPRESS,
                        help="; ".join(" ".join([name, *(f"--{flag.replace('_', '-')}" for flag in flags)])
                                       for name, flags in OPERATORS.items()))

    def flag(name, kind, low, high, text):
        defaults = ", ".join(f"{default:g} for {name_}" for name_, flags in OPERATORS.items()
                             for key, default in flags.items() if key == name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=_number(kind, low, high), default=argparse.SUPPRESS,
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


def _add_evaluate(commands):
    parser = _command(commands, "evaluate", evaluate.run, "Measure restored pictures against their references.")
    parser.add_argument("--reference", required=True, metavar="DIR", default=argparse.SUPPRESS, help=(
        "the true pictures (a folder, or one file)"))
    parser.add_argument("--restored", required=True, metavar="DIR", default=argparse.SUPPRESS, help=(
        "the restored ones, of the same names (extensions may differ)"))
    parser.add_argument("--metrics", default="psnr,ssim", metavar="NAMES", help=(
        "of psnr, ssim, lpips (set INDIGO_LPIPS to its weights), or whole protocols such as psnr-y-bt601-crop4-u8"))
    parser.add_argument("-o", "--output", metavar="FILE.csv", default=argparse.SUPPRESS, help="also write a table")


def _add_weights(commands):
    parser = _command(commands, "weights", None, "List, check and convert network weights.")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _command(actions, "list", weights.list_known, "The names that --weights knows.")
    verify = _command(actions, "verify", weights.verify, "Check weights files, by default all known ones.")
    verify.add_argument("names", nargs="*", metavar="NAME|PATH", help="names or .safetensors files")
    convert = _command(actions, "convert", weights.convert, "Make a weights file.")
    convert.add_argument("source", metavar="SOURCE", help=(
        "for --from indigo: the --workdir of a training run; for keras-ddpm: an .npz of the quantised arrays of the "
        "Keras DDPM example; for ddpm-unet (of DDIM, SDEdit, BIRD) and adm (guided diffusion): a torch state_dict as "
        ".safetensors, .npz, or .pt with torch installed"))
    convert.add_argument("-o", "--output", required=True, metavar="OUT.safetensors", default=argparse.SUPPRESS,
                         help="the file to write")
    convert.add_argument("--from", dest="kind", required=True, choices=weights.KINDS, default=argparse.SUPPRESS,
                         help="what SOURCE is")
    convert.add_argument("--image-size", type=_number(int, 8, 4096, " pixels"), metavar="N", default=argparse.SUPPRESS,
                         help="ddpm-unet, adm: side of the pictures of its training (default: by where its attention "
                              "and its last level usually lie)")
    convert.add_argument("--schedule", choices=("linear", "cosine"), default=argparse.SUPPRESS,
                         help="ddpm-unet, adm: of the noise, over 1000 steps (default: linear)")


def _degrade(args):
    taken = OPERATORS[args.operator]
    every = {flag for flags in OPERATORS.values() for flag in flags}
    for flag in sorted(every & set(vars(args))):
        if flag not in taken:
            raise UsageError(f"--{flag.replace('_', '-')} does nothing with {args.operator}, which takes "
                             + ", ".join(f"--{name.replace('_', '-')}" for name in taken))
    values = {flag: getattr(args, flag, default) for flag, default in taken.items()}
    if args.operator == "blur" and values["kernel"] is None:
        raise UsageError("--operator blur needs --kernel FILE (.npy, .npz or .png); or use gaussian-blur, motion-blur")
    jobs, failed = gather(args.inputs, args.output)
    targets = choose_targets(args, jobs, args.output, 1, "--output")

    import jax

    from indigo_jax import images, pipeline
    try:
        operator = _make_operator(args.operator, values)
        devices = jax.local_devices()[:1]
    except (ValueError, OSError) as error:
        raise UsageError(one_line(error)) from error
    except RuntimeError as error:
        raise UsageError(f"no device to compute on ({one_line(error)}); set JAX_PLATFORMS=cpu") from error

    def finish(job, picture, degraded, seconds):
        images.write(targets[job][0], degraded)
        height, width = degraded.pixels.shape[:2]
        return f"{width} x {height} pixels, {args.operator}"

    def work(picture, device):
        return pipeline.degrade(picture, operator, seed=args.seed)

    return run_all(args, jobs, targets, failed, work, finish, devices, "degraded")


def _make_operator(name, values):
    """An operator, or a function ``(keys, height, width) -> operator`` where it depends on the picture."""
    from indigo_jax import operators
    if name == "gaussian-noise":
        return operators.gaussian_noise(sigma_255=values["sigma_255"])
    if name == "poisson-noise":
        return operators.poisson_noise(values["peak"])
    if name == "speckle-noise":
        return operators.speckle_noise(sigma=values["sigma"])
    if name == "gaussian-blur":
        return operators.gaussian_blur(values["sigma"])
    if name == "motion-blur":
        return operators.motion_blur(values["length"], math.radians(values["angle"]))
    if name == "defocus-blur":
        return operators.defocus_blur(values["radius"])
    if name == "blur":
        return operators.blur(operators.load_kernel(values["kernel"]))
    if name == "downsample":
        return operators.downsample(values["factor"])
    if name == "super-resolution":
        return operators.super_resolution(values["factor"])
    if name == "jpeg":
        return operators.jpeg(values["quality"])
    if name == "camera-shake":
        size = 2 * math.ceil(values["length"] / 2) + 1
        return lambda keys, height, width: operators.blur(
            operators.motion_kernel(keys, size=size, length=values["length"]))

    def box(keys, height, width):
        tall, wide = round(values["box"] * height), round(values["box"] * width)
        return operators.inpaint(operators.box_mask(height, width, top=(height - tall) // 2, left=(width - wide) // 2,
                                                    box_height=tall, box_width=wide))
    return box
