"""InDI beside a diffusion given y that was trained on the same pairs: quality against the number of steps."""
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from eval import problems
from eval.configs import photo_degradations
from eval.measure import about, grouped, markdown, mean
from eval.tables import photo
from indigo_jax import denoisers, paths, rng, samplers, schedules
from indigo_jax.methods import base

SIDE = 128  # of the central squares that are restored
INDI, DIFFUSION = "InDI", "diffusion given y"
_CLEAR = 1e-4  # share of the picture that is left where the chain begins


def restorers(network: base.Network, num_steps: int):
    """``restore(params, y, keys) -> x`` of InDI's network, or of a diffusion given y: DDIM from noise, eta 0."""
    info = network.info

    def restore(params, y, keys):
        def run(x, t, *y):
            return network.module.apply(params, x, t, *y)

        if "noise" in info:
            seen = y if getattr(network.module, "condition_on_y", False) else None
            mode = paths.noise_from_json(info["noise"])
            kernel = samplers.indi(denoisers.of(run, info, y=seen), num_steps, noise=mode)
            return samplers.sample(kernel, keys, y)[0]
        prior = denoisers.of(run, info, clip=True, y=y)
        with jax.ensure_compile_time_eval():
            known = np.asarray(prior.schedule.alpha_bar)
            levels = schedules.respace(schedules.truncate(prior.schedule, min(_CLEAR, known[0])), num_steps, "trailing")
        return samplers.sample(samplers.ddim(prior.denoiser, levels), keys, rng.normal(rng.init_keys(keys), y))[0]

    return jax.jit(restore)


def results(networks: dict[str, base.Network], pictures: problems.Pictures, steps, seed: int, degradations):
    """``(method, photo.Result)``: the input once, then each method with each number of steps."""
    programs = {(title, count): restorers(network, count) for title, network in networks.items() for count in steps}
    for name, image in tqdm(list(zip(pictures.names, pictures.images)), mininterval=1.0):
        top, left = ((size - SIDE) // 2 for size in image.shape[:2])
        truth = image[top:top + SIDE, left:left + SIDE]
        if truth.shape[:2] != (SIDE, SIDE):
            raise ValueError(f"{name} is smaller than {SIDE} x {SIDE} pixels: leave it out")
        key = rng.image_keys(seed, [rng.name_id(name)])
        inputs = np.asarray(problems.degrade(degradations, truth, key[0]))
        for degradation, pixels in zip(degradations, inputs):
            yield "input", photo.Result(name, degradation, 0, pixels, truth)
        keys = rng.fold(jnp.concatenate([degradation.keys(key) for degradation in degradations]), problems.SAMPLE)
        for (title, count), program in programs.items():
            found = np.asarray(problems.to_uint8(program(networks[title].params, problems.from_uint8(inputs), keys)))
            for degradation, pixels in zip(degradations, found):
                yield title, photo.Result(name, degradation, count, pixels, truth)


def to_markdown(rows: list[dict], names: list[str]) -> str:
    """One line per method and number of steps: means over pictures and degradations."""
    lines = []
    for title, by_steps in grouped(rows, "method", "steps").items():
        for count, each in by_steps.items():
            lines.append([title, str(count) if count else "", *(f"{mean(each, name):.3f}" for name in names)])
    return markdown(["method", "steps", *names], lines)


def table(args, pictures, path, command: str):
    """As :data:`eval.tables.TABLES` has it; keeps no .jsonl."""
    networks = {INDI: base.open_network(args.against, "restorer"),
                DIFFUSION: base.open_network(args.weights, "prior")}
    if networks[DIFFUSION].info.get("condition") != "y":
        raise ValueError(f"{args.weights} is a prior of pictures alone: give one of train.diffusion --condition y")
    measures, degradations = photo.protocols(args.lpips), photo_degradations.get_config()
    rows = []
    for title, result in results(networks, pictures, sorted(set(args.steps)), args.seed, degradations):
        rows += [{"method": title, **row} for row in photo.measure([result], measures)]
    said = [f"{title}: `{network.name}`, {sum(leaf.size for leaf in jax.tree.leaves(network.params)):,} parameters, "
            f"{network.info.get('num_steps', 0):,} steps of training, sha256 `{network.info['sha256'][:12]}`."
            for title, network in networks.items()]
    notes = (f"{' '.join(said)} On {about(pictures, None, [args.seed])}, central squares of {SIDE} px under "
             f"{len(degradations)} degradations, of which means are taken; results rounded to 8 bits. InDI walks "
             "evenly from y, the diffusion by DDIM (eta 0, levels evenly in time) from noise; a step is an evaluation "
             f"of either. No FID: it wants thousands of pictures, not {len(pictures.names)}.")
    return networks[DIFFUSION].name, rows, "\n\n".join(
        [to_markdown(rows, [measure.name for measure in measures]), notes, f"Written by `{command}`."])
