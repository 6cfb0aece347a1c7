"""How fast networks are trained here: ours, before (the compiler's gradients) and now, and torch; see
:mod:`eval.benchmark`."""
import functools
import importlib
import statistics

import jax
import jax.numpy as jnp
import numpy as np

from eval.speed import twins
from eval.speed.measuring import interleaved, memory, parameter_count, random_arrays, scaled, shapes

NETWORKS = ("indi_photo_small", "denoiser_photo", "diffusion_faces64")  # configs of train/configs
WAYS = {"ours": "flipped", "compiler": "plain"}  # their convolutions

COLUMNS = (("network", "network", "s"), ("way", "way", "s"), ("parameters", "params", ",d"), ("batch", "batch", "d"),
           ("image_size", "size", "d"), ("forward_seconds_min", "forward s", ".4g"),
           ("gradient_seconds_min", "gradient s", ".4g"), ("gradient_seconds_median", "median s", ".4g"),
           ("update_seconds_min", "update s", ".4g"), ("gradient_over_forward", "gradient/3 fwd", ".3f"),
           ("forward_over_torch", "forward/torch", ".3f"), ("gradient_over_torch", "gradient/torch", ".3f"),
           ("step_over_torch", "step/torch", ".3f"), ("peak_bytes", "peak MB", scaled(1e6)))
NOTES = ("forward: without gradient; gradient: forward and backward of a mean square; update: clipping, AdamW, moving "
         "average; step: gradient and update",
         "all rows of a network take turns in one run; seconds are those of the processor (all threads), so that other "
         "work on the machine counts little; ratios are of the least")


def training(args) -> list:
    """Rows of each network: ours, the compiler's gradients, and torch if asked for."""
    names, rows = args.networks or NETWORKS, []
    for name in names:
        measured = functools.cache(functools.partial(measure, name, args))
        rows += [functools.partial(_pick, measured, way) for way in (*WAYS, *args.against)]
    return rows


def _pick(measured, way):
    return measured()[way]


def config_of(name: str):
    """The config of ``train/configs`` of this name.

    Errors:
        ValueError for one that is not there.
    """
    if name not in NETWORKS:
        raise ValueError(f"no network {name!r} in the benchmark of training; there are: {', '.join(NETWORKS)}")
    try:
        return importlib.import_module(f"train.configs.{name}").get_config()
    except ImportError as error:
        raise ImportError(f'the benchmark of training needs: pip install "indigo_jax[train]" ({error})') from error


def measure(name: str, args) -> dict[str, dict]:
    """A row for each way, all measured in turns."""
    config = config_of(name)
    batch, size = (args.batch or [config.batch_size])[0], args.sizes[0]
    random = np.random.default_rng(0)
    x, target = (random.standard_normal((batch, size, size, 3), np.float32) for _ in range(2))
    t = np.linspace(0.1, 1.0, batch, dtype=np.float32)
    params = random_arrays(shapes(config.model))
    functions, peaks = {}, {}
    for way, convolution in WAYS.items():
        made, peaks[way] = _ours(config, config.model.clone(convolution=convolution), params, x, t, target)
        functions.update({(way, part): function for part, function in made.items()})
    for way in args.against:
        functions.update({(way, part): function for part, function in _torch(config, params, x, t, target).items()})
    times = interleaved(functions, repeats=args.repeats, seconds=args.seconds)
    facts = {"benchmark": "training", "network": name, "parameters": parameter_count(config.model), "batch": batch,
             "image_size": size, "device_count": 1, "platform": jax.default_backend(),
             "device_kind": jax.devices()[0].device_kind, "jax_version": jax.__version__}
    return {way: {**facts, "way": way, **_numbers(way, times), "peak_bytes": peaks.get(way)}
            for way in (*WAYS, *args.against)}


def _numbers(way, times):
    times = {**{(way, part): times["ours", part] for part in ("forward", "update")}, **times}  # the same programs
    least = {key: min(values) for key, values in times.items()}
    forward = least[way, "forward"]
    step = least[way, "gradient"] + least[way, "update"]
    has_torch = ("torch", "forward") in least
    torch_step = has_torch and least["torch", "gradient"] + least["torch", "update"]
    parts = {f"{part}_seconds_{name}": of(times[way, part]) for part in ("gradient", "update")
             for name, of in (("min", min), ("median", statistics.median))}
    return {"forward_seconds_min": forward, **parts, "step_seconds_min": step, "repeats": len(times[way, "gradient"]),
            "gradient_over_forward": least[way, "gradient"] / (3 * forward),
            "forward_over_torch": forward / least["torch", "forward"] if has_torch else None,
            "gradient_over_torch": least[way, "gradient"] / least["torch", "gradient"] if has_torch else None,
            "step_over_torch": step / torch_step if has_torch else None}


def _ours(config, module, params, x, t, target):
    """What is timed, by name, and the peak of the gradient in bytes."""
    from train import loop
    optimizer = loop.make_optimizer(config)
    params, x, t, target = jax.device_put((params, x, t, target))

    def loss(params, x, t, target):
        return jnp.mean((module.apply(params, x, t) - target) ** 2)

    gradient = jax.jit(jax.value_and_grad(loss)).lower(params, x, t, target).compile()
    made = {"gradient": lambda: gradient(params, x, t, target)}
    if module.convolution == WAYS["ours"]:  # the rest is the same programs
        state = loop.TrainState(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, params),
                                optimizer.init(params), jnp.full((), -1, jnp.int32))
        value, grads = gradient(params, x, t, target)
        update = jax.jit(functools.partial(loop.applied, config, optimizer)).lower(state, value, grads).compile()
        forward = jax.jit(module.apply).lower(params, x, t).compile()
        made = {"forward": lambda: forward(params, x, t), **made, "update": lambda: update(state, value, grads)}
    return made, memory(gradient)["peak_bytes"]


def _torch(config, params, x, t, target):
    """The same in torch: forward without a tape, gradient, and update."""
    torch = twins.torch()
    tensors = twins.parameters(params)
    leaves = jax.tree.leaves(tensors)
    average = [leaf.detach().clone() for leaf in leaves]
    optimizer = torch.optim.AdamW(leaves, lr=config.learning_rate, weight_decay=config.weight_decay, foreach=True)
    x, target, t = twins.pictures(x), twins.pictures(target), torch.from_numpy(t)

    def forward():
        with torch.no_grad():
            twins.apply(config.model, tensors, x, t)

    def gradient():
        for leaf in leaves:
            leaf.grad = None
        torch.mean((twins.apply(config.model, tensors, x, t) - target) ** 2).backward()

    def update():
        with torch.no_grad():
            torch.nn.utils.clip_grad_norm_(leaves, config.clip_norm, foreach=True)
            optimizer.step()
            torch._foreach_lerp_(average, leaves, 1 - config.ema)

    return {"forward": forward, "gradient": gradient, "update": update}
