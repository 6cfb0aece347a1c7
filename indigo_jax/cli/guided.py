"""``--method indigo`` and ``--method latent-indigo`` of ``indigo restore``: flags, networks, what is said of them."""
import argparse

from indigo_jax.cli.messages import UsageError, one_line

TASKS = ("auto", "sr", "denoise", "deblur", "jpeg")
SETTINGS = ("steps", "preset", "guidance", "refine", "gradient", "eta", "start", "tile")  # passed on as they are
_SHARED = (*SETTINGS, "prior", "inn", "estimate", "unconditional", "from_noise", "no_color_fix", "same_size")
_LATENT = ("guide_every", "regularizer")
FLAGS = {"indigo": _SHARED, "latent-indigo": (*_SHARED, *_LATENT, "autoencoder", "variant")}
DEFAULTS = {  # of the variant "pixel" or "latent" of the invertible network
    "indigo": {"prior": "faces64", "inn": {"pixel": "inn-pixel"}},
    "latent-indigo": {"prior": "latent-faces", "inn": {"pixel": "inn-pixel", "latent": "inn-latent"},
                      "autoencoder": "autoencoder-faces"}}
_WHAT = {"prior": "a diffusion prior", "inn": "an invertible network", "autoencoder": "the prior's autoencoder"}
_REGULARIZERS = ("none", "penalty", "reencode", "resample", "trust-region")


def add_flags(parser, number):
    """The flags of both methods; ``number(kind, low, high)`` parses one."""
    def flag(name, text, **options):
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, help=text, **options)

    weights = dict(metavar="NAME|PATH")
    flag("prior", "indigo, latent-indigo: the diffusion prior (default: faces64; latent-faces)", **weights)
    flag("inn", "indigo, latent-indigo: the invertible network that knows the damage (default: inn-pixel; inn-latent)",
         **weights)
    flag("autoencoder", "latent-indigo: the autoencoder of the prior's latents (default: autoencoder-faces, or the one "
         "that --prior names)", **weights)
    flag("variant", "latent-indigo: what the invertible network sees; latent is faster (default: as --inn, or latent)",
         choices=("pixel", "latent"))
    flag("preset", "indigo, latent-indigo: guidance for synthetic damage, or gentler and with refinement for real "
         "pictures (default: syn)", choices=("syn", "real"))
    flag("guidance", "indigo, latent-indigo: how strongly the picture pulls; 0 leaves all to the prior (default: by "
         "--preset: 3.5 or 1; for latents 1 or 0.3)", type=number(float, 0, 1e6), metavar="N")
    flag("refine", "indigo, latent-indigo: learning rate with which the invertible network adapts to each picture, 0 "
         "for not at all (default: by --preset: 0 or 5e-5)", type=number(float, 0, 1), metavar="RATE")
    flag("gradient", "indigo, latent-indigo: through the prior, or cheaper, past it (default: full)",
         choices=("full", "truncated"))
    flag("guide-every", "latent-indigo: guide in one of N steps (default: 1)", type=number(int, 1, 10_000), metavar="N")
    flag("regularizer", "latent-indigo: what keeps latents natural (default: reencode for pixel, resample for latent, "
         "each with trust-region)", choices=_REGULARIZERS)
    flag("eta", "indigo, latent-indigo: new noise in each step, from none, 0, to that of DDPM, 1 (default: 0.5)",
         type=number(float, 0, 1), metavar="N")
    flag("estimate", "indigo, latent-indigo: a network for --method indi that makes the first estimate (default: "
         "bicubic)", **weights)
    flag("start", "indigo, latent-indigo: alpha_bar of the first level, where noise is mixed with the first estimate; "
         "near 1 the prior may change little (default: 0.199; with latents 0.5)", type=number(float, 1e-3, 1),
         metavar="N")
    flag("from-noise", "indigo, latent-indigo: start from pure noise, not from a first estimate", action="store_true")
    flag("unconditional", "indigo, latent-indigo: do not tell the invertible network how this picture is damaged",
         action="store_true")
    flag("no-color-fix", "indigo, latent-indigo: leave the colours as they come; else the low frequencies are those of "
         "the first estimate", action="store_true")
    flag("same-size", "indigo, latent-indigo: the picture has its wanted size already; so with --task denoise, deblur "
         "and jpeg", action="store_true")


def check(args):
    """Refuse flags that contradict one another."""
    if hasattr(args, "weights"):
        raise UsageError(f"--method {args.method} takes its networks by --prior and --inn; leave --weights out")
    if args.task == "sr" and hasattr(args, "same_size"):
        raise UsageError("--task sr enlarges; leave --same-size out, or use --task auto")
    if hasattr(args, "start") and hasattr(args, "from_noise"):
        raise UsageError("--from-noise visits all levels; leave --start out")
    if hasattr(args, "estimate") and hasattr(args, "from_noise"):
        raise UsageError("--from-noise starts without a first estimate; leave --estimate out")


class Guided:
    """A prior and an invertible network: ``(picture, sample, device) -> (picture, facts)``."""

    before, read = "before", None

    def __init__(self, args, scale):
        import jax

        from indigo_jax import guided, pipeline, weights
        try:
            self.restoration = guided.load(args.method, **_networks(args))
        except weights.WeightsError as error:
            raise UsageError(str(error)) from error
        self.info, self.devices = self.restoration.info, jax.local_devices()[:1]
        self.scale, self.steps = self.restoration.scale, getattr(args, "steps", guided.Settings().steps)
        _check_scale(args, self.restoration, scale)
        self.settings = {name: getattr(args, name) for name in (*SETTINGS, *_LATENT) if hasattr(args, name)}
        self.settings.update(conditional=not hasattr(args, "unconditional"), from_noise=hasattr(args, "from_noise"),
                             fix_color=not hasattr(args, "no_color_fix"))
        self.options = dict(same_size=hasattr(args, "same_size") or args.task in ("denoise", "deblur", "jpeg"),
                            seed=args.seed)
        self.estimator = None
        try:
            self.restoration.check(**self.settings)
            if hasattr(args, "estimate"):
                self.estimator = pipeline.load(args.estimate)
        except weights.WeightsError as error:
            raise UsageError(f"--estimate {error}") from error
        except ValueError as error:
            raise UsageError(one_line(error)) from error

    def __call__(self, picture, sample, device):
        estimate = None
        if self.estimator is not None:
            times = None if self.options["same_size"] else self.scale
            estimate = self.estimator.picture(picture, scale=times, seed=self.options["seed"], device=device).pixels
        return self.restoration.picture(picture, sample=sample, estimate=estimate, **self.options, **self.settings)

    def report(self, facts, targets, report):
        """What goes into the report of one picture."""
        restoration, one = self.restoration, facts[0]
        drift = {} if one.drift is None else {"drift": [round(fact.drift, 5) for fact in facts]}
        networks = {"inn": restoration.inn_info, "autoencoder": restoration.autoencoder_info}
        return {"steps": self.steps, "guidance": one.guidance, "refine": one.refine,
                "network_evaluations": sum(fact.evaluations for fact in facts),
                "residual": [round(fact.residual, 6) for fact in facts],
                "residual_of": "latents" if restoration.variant == "latent" else "pixels from 0 to 1", **drift,
                "tiles": one.layout.rows * one.layout.columns, "canvas": list(one.layout.canvas[::-1]),
                **({"variant": restoration.variant} if restoration.variant else {}),
                **{name: {"name": info.get("name"), "sha256": info["sha256"]}
                   for name, info in networks.items() if info is not None}}

    def line(self, facts):
        """What is said about one picture."""
        layout, residual = facts[0].layout, max(fact.residual for fact in facts)
        tiles = layout.rows * layout.columns
        pieces = f" in {tiles} tiles of {layout.tile} x {layout.tile}" if tiles > 1 else ""
        said = (f"{residual:.3f} (latents)" if self.restoration.variant == "latent" else f"{residual * 255:.1f} of 255")
        return f"{sum(fact.evaluations for fact in facts)} network evaluations{pieces}, residual {said}"


def _networks(args):
    """Names or paths, and the variant, for :func:`guided.load`."""
    defaults = DEFAULTS[args.method]
    variant = getattr(args, "variant", None if hasattr(args, "inn") else list(defaults["inn"])[-1])
    named = {"prior": defaults["prior"], "inn": defaults["inn"].get(variant)}
    if "autoencoder" in defaults and not hasattr(args, "prior"):
        named["autoencoder"] = defaults["autoencoder"]
    return {"variant": variant, **{kind: getattr(args, kind) if hasattr(args, kind) else _default(kind, name)
                                   for kind, name in {**named, **_given(args, "autoencoder")}.items()}}


def _given(args, name):
    return {name: getattr(args, name)} if hasattr(args, name) else {}


def _default(kind, name):
    from indigo_jax import weights
    try:
        weights.find(name)
    except weights.WeightsError as error:
        raise UsageError(f"{name}, the default --{kind}, is not among the weights here; give {_WHAT[kind]}: --{kind} "
                         "NAME|PATH; see: indigo weights list") from error
    return name


def _check_scale(args, restoration, scale):
    """Refuse to enlarge by what the invertible network does not."""
    name = restoration.inn_info.get("name", "the invertible network")
    if args.task == "sr" and restoration.scale == 1:
        raise UsageError(f"--task sr: {name} keeps the size; give another --inn, or leave --task out")
    if hasattr(args, "scale") and scale != restoration.scale:
        raise UsageError(f"--scale {scale}: {name} was made for {restoration.scale}; use --scale {restoration.scale}, "
                         "or another --inn")
