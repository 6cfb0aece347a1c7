"""``indigo restore``: pictures through a network that restores directly, or through a diffusion prior."""
import json
import math
import pathlib

from indigo_jax import __version__
from indigo_jax.cli import guided, tomography
from indigo_jax.cli.jobs import choose_targets, gather, refuse_shared, run_all
from indigo_jax.cli.messages import UsageError, one_line, write_text

METHODS = {"indi": ("auto", "denoise", "deblur", "sr", "jpeg"),
           "bird": ("deblur", "nonuniform", "sr", "denoise", "inpaint", "ct"),
           **dict.fromkeys(guided.FLAGS, guided.TASKS)}
DEFAULT_WEIGHTS = {"indi": "indi-photo", "bird": "faces64", "bird, ct": "ellipses64"}
OWN_FLAGS = {"indi": ("steps", "tile"), "bird": ("mask", "kernel", "kernel_size", "kernel_family", "grid",
                                                 "candidates", "angles", "sigma_255"), **guided.FLAGS}
_TASKS_OF = {"mask": ("inpaint",), "kernel": ("deblur",), "kernel_size": ("deblur", "nonuniform"),
             "candidates": ("deblur", "nonuniform"), "kernel_family": ("deblur",), "grid": ("nonuniform",),
             "angles": ("ct",)}


def run(args):
    """Restore every picture; returns the exit code."""
    _check_flags(args)
    own = f"{args.method}, {args.task}"
    args.weights = getattr(args, "weights", DEFAULT_WEIGHTS.get(own, DEFAULT_WEIGHTS.get(args.method)))
    scale = (getattr(args, "scale", None) or 4) if args.task == "sr" else None
    report = getattr(args, "report", None)
    jobs, failed = gather(args.inputs, args.output, **(tomography.KIND if args.task == "ct" else {}))
    targets = choose_targets(args, jobs, args.output, args.samples, "--output")
    comparisons = choose_targets(args, jobs, args.compare, 1, "--compare") if hasattr(args, "compare") else None
    if comparisons:
        refuse_shared(comparisons, targets)
    if report is not None and (pathlib.Path(report).suffix.lower() != ".json" or pathlib.Path(report).is_dir()):
        raise UsageError(f"--report writes JSON: name it {pathlib.Path(report).with_suffix('.json')}, not {report}")
    try:
        method = {"indi": _Indi, "bird": _Tomography if args.task == "ct" else _Bird}.get(
            args.method, guided.Guided)(args, scale)
    except RuntimeError as error:
        raise UsageError(f"no device to compute on ({one_line(error)}); set JAX_PLATFORMS=cpu") from error

    def work(picture, device):
        return [method(picture, sample, device) for sample in range(args.samples)], device

    rows = []

    def finish(job, picture, result, seconds):
        from indigo_jax import images
        results, device = result
        restored, facts = zip(*results)
        for target, one in zip(targets[job], restored):
            images.write(target, one)
        if comparisons:
            labels = ["after"] if args.samples == 1 else [f"after, sample {i + 1}" for i in range(args.samples)]
            row = images.side_by_side([one.pixels for one in (picture, *restored)], [method.before, *labels])
            images.write(comparisons[job][0], row)
        height, width = restored[0].pixels.shape[:2]
        rows.append({"input": str(job.path), "outputs": [str(target) for target in targets[job]], "width": width,
                     "height": height, "seconds": round(seconds, 4), **method.report(facts, targets[job], report),
                     "weights": method.info.get("name", args.weights), "sha256": method.info["sha256"],
                     "device": f"{device.platform}:{device.id} ({device.device_kind})"})
        return f"{width} x {height} pixels, {method.line(facts)}, {seconds:.1f} s"

    code = run_all(args, jobs, targets, failed, work, finish, method.devices, "restored", method.read)
    if report is not None:
        settings = {"version": __version__, "method": args.method, "task": args.task, "seed": args.seed,
                    "samples": args.samples, "scale": getattr(method, "scale", scale)}
        text = json.dumps({**settings, "files": rows, "failed": [
            {"input": name, "reason": reason} for name, reason in failed]}, indent=2, ensure_ascii=False) + "\n"
        if not write_text(report, text):
            return 1
    return code


def _check_flags(args):
    if args.task not in METHODS[args.method]:
        other = next(method for method, tasks in METHODS.items() if args.task in tasks)
        raise UsageError(f"--task {args.task} is for --method {other}; add that, or give another --task. There is: "
                         f"{', '.join(METHODS[args.method])}")
    for flag in dict.fromkeys(flag for flags in OWN_FLAGS.values() for flag in flags):
        owners = [method for method, flags in OWN_FLAGS.items() if flag in flags]
        if hasattr(args, flag) and args.method not in owners:
            raise UsageError(f"--{flag.replace('_', '-')} is for --method {' and '.join(owners)}; leave it out")
    if args.method in guided.FLAGS:
        guided.check(args)
    if hasattr(args, "scale") and args.task != "sr":
        raise UsageError("--scale enlarges, which is for --task sr; add --task sr, or leave --scale out")
    for flag, tasks in _TASKS_OF.items():
        if hasattr(args, flag) and args.task not in tasks:
            raise UsageError(f"--{flag.replace('_', '-')} is for --task {' and '.join(tasks)}; leave it out")
    if args.task == "inpaint" and not hasattr(args, "mask"):
        raise UsageError("--task inpaint needs --mask FILE, a picture in which the area to fill is white")
    unknown = [flag for flag in ("kernel_size", "kernel_family", "candidates") if hasattr(args, flag)]
    if hasattr(args, "kernel") and unknown:
        raise UsageError("--kernel says what the blur is; leave " + " and ".join(
            f"--{flag.replace('_', '-')}" for flag in unknown) + " out")
    if getattr(args, "kernel_size", 1) % 2 == 0:
        raise UsageError(f"--kernel-size must be odd; use {args.kernel_size + 1}, not {args.kernel_size}")


class _Indi:
    """InDI: ``(picture, sample, device) -> (picture, facts)``."""

    before, read = "before", None

    def __init__(self, args, scale):
        from indigo_jax import pipeline
        self.restoration = _load(pipeline.load, args)
        self.info, self.devices = self.restoration.info, self.restoration.devices
        if args.task not in ("auto", *self.info["tasks"]):
            raise UsageError(f"--task {args.task}: the weights {args.weights} were not trained for it; use auto or one "
                             f"of {', '.join(self.info['tasks'])}, or other weights")
        self.steps, self.tile = getattr(args, "steps", 1), getattr(args, "tile", None)
        self.options = dict(scale=scale, steps=self.steps, seed=args.seed, tile=self.tile)

    def __call__(self, picture, sample, device):
        from indigo_jax import pipeline
        restored = self.restoration.picture(picture, sample=sample, device=device, **self.options)
        return restored, pipeline.plan(*restored.pixels.shape[:2], self.tile)

    def report(self, plans, targets, report):
        """What goes into the report of one picture."""
        return {"steps": self.steps, "network_evaluations": sum(self.steps * p.rows * p.columns for p in plans)}

    def line(self, plans):
        """What is said about one picture."""
        return f"{self.steps} step{'s' if self.steps > 1 else ''}"


class _Bird:
    """A diffusion prior: ``(picture, sample, device) -> (picture, facts)``."""

    before, read = "before", None

    def __init__(self, args, scale):
        import jax

        from indigo_jax import prior
        self.restoration = _load(prior.load, args)
        self.info, self.devices = self.restoration.info, jax.local_devices()[:1]
        self.options = dict(task=args.task, seed=args.seed)
        if scale is not None:
            self.options["scale"] = scale
        for flag, option in (("kernel_size", "size"), ("candidates", "candidates"), ("kernel_family", "family"),
                             ("grid", "grid")):
            if hasattr(args, flag):
                self.options[option] = getattr(args, flag)
        if hasattr(args, "sigma_255"):
            self.options["sigma"] = args.sigma_255 / 127.5
        if hasattr(args, "mask"):
            self.options["mask"] = _read_mask(args.mask)
        if hasattr(args, "kernel"):
            self.options["kernel"] = _read_kernel(args.kernel)

    def __call__(self, picture, sample, device):
        del device
        return self.restoration.picture(picture, sample=sample, **self.options)

    def report(self, facts, targets, report):
        """What goes into the report of one picture; writes the kernels that were found beside the results."""
        import numpy as np
        kernels = []
        for target, fact in zip(targets, facts):
            if report is not None and fact.kernel is not None:
                kernels.append(str(target.with_name(f"{target.stem}-kernel.npy")))
                np.save(kernels[-1], fact.kernel)
        return {"network_evaluations": sum(fact.evaluations for fact in facts),
                "residual_255": [round(fact.residual * 127.5, 3) for fact in facts],
                "sigma_255": [round(fact.sigma * 127.5, 3) for fact in facts],
                "tiles": facts[0].layout.rows * facts[0].layout.columns, "kernels": kernels}

    def line(self, facts):
        """What is said about one picture."""
        evaluations = sum(fact.evaluations for fact in facts)
        tiles, side = facts[0].layout.rows * facts[0].layout.columns, facts[0].layout.height
        pieces = f" in {tiles} tiles of {side} x {side}" if tiles > 1 else ""
        residual, sigma = (max(values) * 127.5 for values in zip(*((f.residual, f.sigma) for f in facts)))
        return f"{evaluations} network evaluations{pieces}, residual {residual:.1f} of 255 (noise {sigma:.1f})"


class _Tomography(_Bird):
    """A diffusion prior and sinograms: ``(sinogram, sample, device) -> (picture, facts)``."""

    before = "filtered back-projection"

    def __init__(self, args, scale):
        super().__init__(args, scale)
        self.sigma, self.seed = self.options.get("sigma"), args.seed
        self.angles = tomography.read_angles(args.angles) if hasattr(args, "angles") else None

    def read(self, path):
        """The sinogram in a file."""
        return tomography.read(path, self.angles)

    def __call__(self, sinogram, sample, device):
        del device
        return self.restoration.sinogram(sinogram.values, sinogram.angles, sigma=self.sigma, seed=self.seed,
                                         sample=sample)


def _load(load, args):
    from indigo_jax.weights import WeightsError
    try:
        return load(args.weights)
    except WeightsError as error:
        raise UsageError(f"--weights {error}") from error


def _read_mask(path):
    """1 where the picture is kept; white is the area to fill."""
    import numpy as np

    from indigo_jax import images
    try:
        pixels = images.read(path).pixels
    except (images.ImageError, OSError) as error:
        raise UsageError(f"--mask {one_line(error)}") from error
    mask = (pixels.mean(axis=-1) < 0).astype(np.float32)
    if mask.all() or not mask.any():
        what = "no white pixel, so there is nothing to fill" if mask.all() else "only white pixels, so nothing is left"
        raise UsageError(f"--mask {path}: {what}; paint the area to fill white on black")
    return mask


def _read_kernel(path):
    import numpy as np

    from indigo_jax import operators
    try:
        kernel = np.asarray(operators.load_kernel(path))
    except (ValueError, OSError) as error:
        raise UsageError(f"--kernel: {one_line(error)}") from error
    if (kernel < 0).any() or not math.isclose(kernel.sum(), 1.0, rel_tol=1e-3):
        raise UsageError(f"--kernel {path}: a blur kernel has no negative entries; the smallest is {kernel.min():.3g}")
    return kernel
