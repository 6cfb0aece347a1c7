"""Figures of the InDI paper, drawn anew: Fig. 1 (the toy with four modes) and Fig. 3 (perception against distortion).

    python -m eval.figures [--figure toy|perception-distortion|all] [-o FOLDER]
    python -m eval.figures --method bird --weights PRIOR [--figure iterations|kernels|levels|wrong-kernel|all]
    python -m eval.figures --method people [--figure noise|jpeg|sr|...|all] [-o docs/tasks]
    python -m eval.figures --method posteriors [--figure inpaint|sr|all] [-o docs/methods]
    python -m eval.figures --method indigo|latent-indigo [--prior P] [--inn I] [--figure decomposition|path|drift|all]

toy.png                      exact restorers in the plane: paths from observations to data, one step against many
perception_distortion.png    the weights that ship, on real pictures: PSNR against LPIPS for 1 to 20 steps (without
                             LPIPS weights: against the energy of high frequencies, relative to the truth's)
strip.png                    details of the same pictures: input, N = 1, N = 10, truth
perception_distortion.csv    the numbers behind it

and those of BIRD, on a diffusion prior:

bird_iterations.png          the picture at iterations of inpainting and of blind deblurring
bird_kernels.png             kernels that blind deblurring finds, beside the true ones
bird_levels.png, .csv        step size: PSNR and time for few or many DDIM steps at equal network evaluations
bird_wrong_kernel.png, .csv  deblurring with a known kernel that is wrong: BIRD, DiffPIR, DPS, and the blind method

and those of INDIGO and LatentINDIGO (latent_indigo_*), on a diffusion prior with an invertible network:

indigo_decomposition.png     a picture, its coarse part and details, and what they and the measurement make
indigo_path.png, .csv        estimates on the way and the residual, guided beside zeta = 0
latent_indigo_drift.png      how far estimates are from what the autoencoder would say, step by step

and a picture for every line of "Which method?" in the README, before | after | truth, with --method auto:

people_noise.jpg, ...        damage as in `python -m eval.tables --method people`, photographs of scikit-image

and one portrait as each method restores it that draws from a prior or goes down to its mode:

posteriors_inpaint.jpg, _sr  a hole, and a quarter of the size, with the bundled `faces64`

Paper: Delbracio & Milanfar, Inversion by Direct Iteration, TMLR 2023 (arXiv 2303.11435).
"""
import pathlib

from eval import command, problems
from eval.figures import bird, indigo, people, photo, posteriors

OF_METHOD = {"indi": photo.FIGURES, "bird": bird.FIGURES, "people": tuple(people.FIGURES),
             "posteriors": posteriors.FIGURES, **indigo.OF_METHOD}
# by method: ``draw(args, names, folder)``: arguments of the command line, of which figures, where they go
DRAW = {"indi": photo.draw, "bird": bird.draw, "people": people.draw,
        "posteriors": posteriors.draw, **dict.fromkeys(indigo.OF_METHOD, indigo.draw)}


def main(argv=None) -> int:
    """Command line; see the module's text."""
    parser = command.Parser(prog="eval.figures", description=__doc__)
    parser.add_argument("--method", choices=tuple(OF_METHOD), default="indi", help="default: indi")
    parser.add_argument("--figure", default="all",
                        choices=(*dict.fromkeys(name for names in OF_METHOD.values() for name in names), "all"),
                        help="one of the method's; default: all")
    parser.add_argument("-o", "--output", default=str(command.RESULTS), metavar="FOLDER",
                        help="where the pictures go; default: eval/results")
    command.add_model_arguments(parser)
    parser.add_argument("--steps", type=command.whole, nargs="+", default=list(photo.STEPS), metavar="N",
                        help=f"indi: numbers of steps; default: {' '.join(map(str, photo.STEPS))}")
    parser.add_argument("--crop", type=command.whole, default=256, metavar="PX",
                        help="indi: use the central square of at most this side; default: 256")
    command.add_guided_arguments(parser)
    parser.add_argument("--degradation", choices=tuple(problems.LEARNED), default="plain",
                        help="indigo: default: plain")
    args = parser.parse_args(argv)
    if args.figure not in (*OF_METHOD[args.method], "all"):
        other = next(method for method, names in OF_METHOD.items() if args.figure in names)
        parser.error(f"--figure {args.figure} is one of --method {other}")
    names = OF_METHOD[args.method] if args.figure == "all" else (args.figure,)
    return command.run(parser, lambda: DRAW[args.method](args, names, pathlib.Path(args.output)))
