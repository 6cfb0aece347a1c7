"""The table of all methods: each task that a method does, from pictures as people have them, at equal evaluations.

Samples stand among samples and means among means. Every method is called as `indigo restore` calls it, with the prior
of the pictures and 8-bit inputs; blurred pictures are cut out of larger ones, so that no border is that of a solver.
"""
import functools
import pathlib
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from eval.baselines import BASELINES
from eval.measure import Cache, about, aligned_psnr, lpips_of, markdown, mean
from eval.problems import FACTOR, KERNEL_SIZE, Pictures, digest, open_pictures, to_side
import indigo_jax
from indigo_jax import images, methods, operators, rng
from indigo_jax import metrics as scores
from indigo_jax.methods import bird
from indigo_jax.methods.known import Sampled, problem_of

SIDE = 64  # of what is restored
BUDGET = 100  # evaluations of a chain, by one sample or four
SIGMA, BLUR_NOISE = 25.0, 2.55  # of 255
MEASURED = ("evaluations", "psnr", "lpips")
POINT, SAMPLE, MEAN = "estimate", "sample", "mean of 4 samples"
_MARGIN = KERNEL_SIZE // 2
TITLES = {"input": "the picture as it is", "wiener": "Wiener", "tv": "total variation", "indi": "InDI",
          "once": "one network call", "jpeg": "held to the file", "hqs": "half-quadratic splitting",
          "blind": "kernel looked for", "diffpir": "DiffPIR", "bird": "BIRD", "ddnm": "DDNM", "ddrm": "DDRM",
          "daps": "DAPS", "dps": "DPS", "pigdm": "PiGDM", "tmpd": "TMPD", "reddiff": "RED-diff", "pnp-flow": "PnP-Flow",
          "indigo": "INDIGO", "latent-indigo": "LatentINDIGO"}
TASKS = {"denoise": "noise, sigma 25", "deblur": "known 9x9 motion, 1 % noise",
         "blind": "unknown 9x9 motion, 1 % noise", "sr": "4x smaller, means of 4x4",
         "inpaint": "a hole of 20/64 of the side", "jpeg": "JPEG, quality 10"}


class Damage(NamedTuple):
    """A damaged picture ``y`` and its truth, float32 ``[h, w, 3]`` in [-1, 1], and what a person knows of it."""

    y: np.ndarray
    truth: np.ndarray
    settings: dict


class Line(NamedTuple):
    """One line of a task: a method of METHODS with its settings, and what its answer is."""

    method: str
    kind: str
    settings: dict


def damaged(task: str, image: np.ndarray, seed: int) -> Damage:
    """A uint8 picture ``[H, W, 3]``, brought to :data:`SIDE` with some more around it, and damaged.

    What is drawn comes from the task and the seed, which should be the picture's own.
    """
    around = to_side(image, SIDE + 2 * _MARGIN)
    x, random, settings = around[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN], np.random.default_rng(seed), {}
    if task in ("deblur", "blind"):
        keys = rng.image_keys(int(random.integers(2**31)), [0])
        kernel = np.asarray(operators.motion_kernel(keys, size=KERNEL_SIZE, length=float(KERNEL_SIZE)))[0]
        y = _seen(operators.blur(kernel), around)[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
        y = y + BLUR_NOISE / 127.5 * random.standard_normal(y.shape)
        settings = {"kernel": kernel} if task == "deblur" else {}
    elif task == "inpaint":
        hole = 20 * SIDE // 64
        start = (SIDE - hole) // 2
        mask = np.asarray(operators.box_mask(SIDE, SIDE, top=start, left=start, box_height=hole, box_width=hole))
        y, settings = np.where(mask[..., None] > 0, x, 1.0), {"mask": mask}
    else:
        y = {"denoise": lambda: x + SIGMA / 127.5 * random.standard_normal(x.shape),
             "sr": lambda: _seen(operators.average_pool(FACTOR), x),
             "jpeg": lambda: _seen(operators.jpeg(10), x)}[task]()
    return Damage(_eight_bits(y), x, settings)


def lines_of(task: str, weights: str, wanted=None, budget: int = BUDGET) -> list[Line]:
    """The lines of a task for pictures that the prior ``weights`` knows.

    A chain of samples has ``budget`` evaluations; what has a cost of its own keeps it and says it.
    """
    portraits, name = weights != "photo", "deblur" if task == "blind" else task
    found = []
    for method, kind in methods.METHODS.items():
        guided = issubclass(kind, methods.Indigo)
        if name not in kind.tasks or (wanted and method not in wanted) or (guided and not portraits):
            continue
        takes_kernel = "kernel" in kind.Settings.__dataclass_fields__ and method != "blind"
        if (task == "blind" and kind.needs_kernel or task == "deblur" and not takes_kernel
                or method == "latent-indigo" and task != "sr"):
            continue
        own = {} if guided or method in ("indi", "blind") else {"weights": weights}  # blind: of any size, so `photo`
        if issubclass(kind, Sampled):
            steps = {"steps": budget}
            found += [Line(method, SAMPLE, {**own, **steps, "aim": "perception"}),
                      Line(method, MEAN, {**own, **steps, "aim": "distortion"})]
        else:
            found.append(Line(method, SAMPLE if guided else POINT, own))
    return found


def measure(pictures: Pictures, weights: str, *, tasks=tuple(TASKS), wanted=None, seed: int = 0, lpips=None,
            cache: Cache | None = None, budgets: dict[str, int] | None = None) -> list[dict]:
    """One row per task, picture and line: ``{"prior", "task", "picture", "method", "kind", "evaluations", "psnr",
    "lpips"}``; PSNR of what is rounded to 8 bits, of unknown blur at the best of all moves by at most 3 pixels.

    Args:
        pictures: clean ones.
        weights: the prior.
        tasks: of :data:`TASKS`.
        wanted: methods; None: all.
        seed: of all damage and chains.
        lpips: callable ``(a, b) -> [B]`` of uint8, or None.
        cache: of what is measured, by the damage, the line and the program's own files; None: nothing is kept.
        budgets: evaluations of a chain of samples by task; default: :data:`BUDGET`.
    """
    rows, jobs = [], [(task, line) for task in tasks for line in [
        *BASELINES, *lines_of(task, weights, wanted, (budgets or {}).get(task, BUDGET))]]
    for task, line in tqdm(jobs, unit="line", mininterval=1.0):
        answers, psnr = {}, aligned_psnr if task == "blind" else _psnr
        for name, image in zip(pictures.names, pictures.images):
            damage = damaged(task, image, rng.name_id(f"{name} {task} {seed}"))
            if isinstance(line, str):
                method, kind, run = line, POINT, functools.partial(_cheap, line, task, damage)
            else:
                method, kind, run = line.method, line.kind, functools.partial(_restored, answers, line, task, damage,
                                                                              seed)
            key = digest(_sources(), weights, task, str(line), str(seed), str(lpips is not None), damage.y,
                         damage.truth, *damage.settings.values())
            if cache is None or key not in cache.known:
                found, evaluations = run()
                if found is None:
                    break
                found, truth = _eight_bits(found)[None], _eight_bits(damage.truth)[None]
                numbers = {"evaluations": evaluations, "psnr": float(psnr(found, truth)[0]),
                           "lpips": lpips and float(lpips(*map(_bytes, (found, truth)))[0])}
                if cache is not None:
                    cache.add([{"key": key, "task": task, "picture": name, "method": method, **numbers}])
            else:
                numbers = cache.known[key]
            rows.append({"prior": weights, "task": task, "picture": name, "method": method, "kind": kind, **numbers})
    return rows


@functools.cache
def _sources() -> str:
    """Of the program's own files, and of the bundled weights."""
    root = pathlib.Path(indigo_jax.__file__).parent
    return digest(*(path.read_bytes() for path in sorted([*root.rglob("*.py"), *root.rglob("manifest.json")])))


def _restored(answers, line, task, damage, seed):
    """By a method, and its evaluations; it is loaded once for all pictures of a line."""
    answer = answers.get(line.method)
    answers[line.method] = answer = answer.told(**damage.settings) if answer else methods.load(
        line.method, task="deblur" if task == "blind" else task, **line.settings, **damage.settings)
    restored, report = answer(images.Picture(damage.y.astype(np.float32)), seed=seed)
    return restored.pixels, report.evaluations


def _cheap(name, task, damage):
    """By a method without a network, and no evaluations; None where there is none."""
    if name == "input":
        return _seen(operators.upsample(FACTOR), damage.y) if task == "sr" else damage.y, 0
    if task in ("blind", "jpeg"):
        return None, 0
    sigma = {"denoise": SIGMA, "deblur": BLUR_NOISE}.get(task, 0.5) / 127.5
    known = {key: jnp.asarray(value)[None] for key, value in damage.settings.items()}
    y = jnp.asarray(damage.y[None], jnp.float32)
    found = _without_a_network(name, task, damage.truth.shape, y, {"sigma": jnp.float32(sigma), **known})
    return np.asarray(found)[0], 0


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _without_a_network(name, task, shape, y, given):
    return BASELINES[name](task, problem_of(task, y, rng.image_keys(0, [0]), given, shape, FACTOR))


def _seen(operator: Callable, picture):
    return np.asarray(operator(jnp.asarray(picture[None], jnp.float32)))[0]


def _eight_bits(x):
    return np.round((np.clip(x, -1, 1) + 1) * 127.5) / 127.5 - 1


def _bytes(x):
    return np.round((x + 1) * 127.5).astype(np.uint8)


_psnr = functools.partial(scores.psnr, round_uint8=False)


def summaries(rows: list[dict]) -> list[dict]:
    """One per prior, task, method and kind: means, and against the input the mean gain and the share of pictures below
    it; in the order of the rows."""
    found = []
    for (prior, task), group in _by(rows, "prior", "task").items():
        before = {row["picture"]: row["psnr"] for row in group if row["method"] == "input"}
        for (method, kind), each in _by(group, "method", "kind").items():
            gains = [row["psnr"] - before[row["picture"]] for row in each]
            found.append({"prior": prior, "task": task, "method": method, "kind": kind, "gain": float(np.mean(gains)),
                          "below": sum(gain < 0 for gain in gains), "count": len(gains),
                          **{number: mean(each, number) for number in ("evaluations", "psnr", "lpips")}})
    return found


def _by(rows, *columns):
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row[column] for column in columns), []).append(row)
    return groups


def to_markdown(rows: list[dict]) -> str:
    """One line per task and method: what errs least (estimates and means) first, then samples; bold the best PSNR and
    the best LPIPS of a task."""
    with_lpips, lines = any(row["lpips"] is not None for row in rows), []
    for (prior, task), group in _by(summaries(rows), "prior", "task").items():
        best, nearest = max(each["psnr"] for each in group), min(each["lpips"] or 0 for each in group)
        label = f"`{prior}`: {TASKS[task]}"
        for each in sorted(group, key=lambda each: each["kind"] == SAMPLE):
            psnr, title = f"{each['psnr']:.2f}", TITLES[each["method"]]
            title = "bicubic" if task == "sr" and each["method"] == "input" else title
            cells = [label, title, each["kind"], f"{each['evaluations']:.0f}",
                     f"**{psnr}**" if each["psnr"] == best else psnr]
            if with_lpips:
                cells.append(f"**{each['lpips']:.4f}**" if each["lpips"] == nearest else f"{each['lpips']:.4f}")
            lines.append([*cells, f"{each['gain']:+.2f}", f"{each['below']} of {each['count']}"])
            label = ""
    return markdown(["damage", "method", "answer", "network evaluations", "PSNR, dB", *["LPIPS"] * with_lpips,
                     "gain over the first line", "pictures below it"], lines)


def table(args, pictures: Pictures, path, command: str):
    """The name, the rows, the Markdown; see :data:`eval.tables.TABLES`."""
    tasks = [task for task in TASKS if task in args.tasks or task == "jpeg"]
    known = {"tasks": tasks, "wanted": args.methods, "seed": args.seed, "lpips": lpips_of(args.lpips),
             "cache": path and Cache(path.with_suffix(".jsonl"), MEASURED)}
    sets = [(pictures, "photo")] if args.faces is None or args.data else []
    if args.faces is not None:
        sets.insert(0, (open_pictures(args.faces, limit=args.limit), "faces64"))
    rows = [row for each, weights in sets for row in measure(each, weights, **known)]
    on = "; ".join(f"`{weights}` on {about(each, SIDE)}" for each, weights in sets)
    notes = (f"{on}. Bundled weights; noise levels are estimated by the methods themselves. A chain of samples has "
             f"{BUDGET} evaluations, as one sample or as the mean of four of a quarter each; BIRD, INDIGO and what is "
             "no chain have their own number. Inputs and results are rounded to 8 bits; blurred pictures are cut out "
             "of larger ones. Wiener and total variation are told the noise; all but half-quadratic splitting are "
             "told how a picture was shrunk, which that takes for bicubic. An unknown kernel is looked for with "
             "`photo`, of faces too. PSNR of unknown blur is the best of all moves by at most 3 pixels.")
    return "all", rows, "\n\n".join([to_markdown(rows), notes, f"Written by `{command}`."])


def bird_table(args, pictures: Pictures, path, command: str):
    """BIRD and DiffPIR with the prior of photographs, at as many evaluations as BIRD takes: the name, the rows, the
    Markdown; see :data:`eval.tables.TABLES`."""
    budgets = {task: bird.DEFAULT[task].evaluations for task in ("denoise", "deblur", "sr", "inpaint")}
    rows = measure(pictures, "photo", tasks=budgets, wanted=("bird", "diffpir", "hqs"), seed=args.seed,
                   lpips=lpips_of(args.lpips), cache=path and Cache(path.with_suffix(".jsonl"), MEASURED),
                   budgets=budgets)
    notes = (f"`photo` on {about(pictures, SIDE)}. DiffPIR has as many evaluations as BIRD, as one sample or as the "
             "mean of four of a quarter each; half-quadratic splitting is what `--method auto` takes but for noise. "
             "Inputs and results are rounded to 8 bits; blurred pictures are cut out of larger ones. Wiener and total "
             "variation are told the noise; all but half-quadratic splitting how a picture was shrunk.")
    return "bird-photo", rows, "\n\n".join([to_markdown(rows), notes, f"Written by `{command}`."])
