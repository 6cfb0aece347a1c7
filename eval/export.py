"""Export the usual sampler of named weights as a folder that needs neither this package nor flax to run.

    python -m eval.export --weights indi-photo -o indi-photo-256 --size 256 256 --steps 1
    python indi-photo-256/load.py y.npy keys.npy x.npy

A restoration network becomes InDI, a diffusion prior DDIM; see indigo_jax.export. Any number of pictures of that one
size; on a CPU, an NVIDIA GPU or a TPU, none of which needs to be here.
"""
from eval import command
from indigo_jax import export


def main(argv=None) -> int:
    """Command line; see the module's text."""
    parser = command.Parser(prog="eval.export", description=__doc__)
    parser.add_argument("--weights", required=True, metavar="NAME|FILE", help="as indigo weights list shows them")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="the folder to be made")
    parser.add_argument("--size", type=command.whole, nargs=2, default=[256, 256], metavar=("H", "W"),
                        help="of the pictures, in pixels; default: 256 256")
    parser.add_argument("--steps", type=command.whole, metavar="N", help="of the sampler; default: InDI 1, DDIM 50")
    parser.add_argument("--platforms", nargs="+", default=list(export.PLATFORMS), metavar="NAME",
                        choices=["cpu", "cuda", "rocm", "tpu"], help="default: cpu cuda tpu")
    args = parser.parse_args(argv)

    def work():
        program = export.sampler(args.weights, tuple(args.size), steps=args.steps)
        path = export.save(args.output, program.function, program.params, program.inputs, about=program.about,
                           platforms=args.platforms)
        arguments = " ".join(f"{name}.npy" for name in program.about["arguments"])
        print(f"{path}: run it with: python {path / 'load.py'} {arguments} OUTPUT.npy")

    return command.run(parser, work)


if __name__ == "__main__":
    raise SystemExit(main())
