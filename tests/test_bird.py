"""BIRD: the official loop's numbers, its gradients against autodiff, and what sharding and batches must not change."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as orbax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from indigo_jax import (checkpoints, convert, denoisers, models, operators, restoration, rng, samplers, schedules,
                        sharding)
from indigo_jax.restoration import Reuse, averaged, stopped
from indigo_jax.restoration.wrappers import _keep
from tests.oracles import GaussianDiffusion
from tests.paths import SHARED, needs_shared

SCHEDULE = schedules.respace(schedules.linear(), 5, "linspace")
KEYS = rng.image_keys(0, np.arange(8))
Z = rng.normal(rng.init_keys(KEYS), jnp.zeros((8, 8, 8, 3)))
Y = jnp.clip(0.4 * rng.normal(KEYS, Z), -1, 1)


def bent(x, t):
    """A noise predictor that is neither linear nor the same for all pixels; strong enough for x0 to be clipped."""
    exact = GaussianDiffusion(0.1, 0.6).denoiser(SCHEDULE)(x, t)
    return 0.9 * exact.eps + 0.05 * jnp.sin(3.0 * jnp.roll(x, 1, axis=1))


DENOISER = denoisers.from_eps(bent, SCHEDULE)
BLUR = operators.gaussian_blur(1.0)


@needs_shared
def test_official_loop_of_four_iterations():
    fixture = np.load(SHARED / "fixtures" / "bird_reference_deblur.npz")

    def nhwc(name):
        return jnp.asarray(fixture[name].transpose(0, 2, 3, 1))

    state = {name[2:]: fixture[name] for name in fixture.files if name.startswith("w.")}
    module, params = models.DDPMUNet(**convert.ddpm_unet_arguments(state)), convert.ddpm_unet(state)
    schedule = schedules.respace(schedules.linear(), 10)
    np.testing.assert_allclose(schedule.alpha_bar[::-1], fixture["abar"][fixture["timesteps"].astype(int)], rtol=1e-5)

    def eps(x, t):
        a = schedule.alpha_bar[jnp.searchsorted(schedule.timesteps, t)][:, None, None, None]
        return jnp.sqrt(1 - a) * x / (a * 0.25 + 1 - a) + 0.1 * module.apply(params, x, t)

    unknowns = {"input": fixture["kin"],
                "hidden": {"kernel": fixture["k.0.weight"].T, "bias": fixture["k.0.bias"]},
                "out": {"kernel": fixture["k.2.weight"].T, "bias": fixture["k.2.bias"]}}
    unknowns = jax.tree.map(lambda a: jnp.asarray(a)[None], unknowns)
    operator = operators.blind_blur(13, form="mlp", boundary="zero", correlate=True)
    denoiser = denoisers.from_eps(eps, schedule)
    optimizer = restoration.bird_optimizer(3e-3, 2e-4, final=1.0)

    objective = restoration.bird_objective(denoiser, schedule, operator, nhwc("y"), clip="hard")
    first = jax.jit(objective)(nhwc("z0"), unknowns)
    kernel = restoration.bird(denoiser, schedule, operator, nhwc("y"), optimizer, clip="hard", num_iterations=4)
    step, final, losses = jax.jit(kernel.step), kernel.init(nhwc("z0"), params=unknowns), []
    for i in range(4):
        final, info = step(KEYS[:1], final, i)
        losses.append(float(info.loss[0]))

    def relative(a, b):
        return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))

    assert relative(first.x0, nhwc("first_x0")) < 1e-4
    assert relative(first.grad_z, nhwc("first_grad")) < 1e-4
    np.testing.assert_allclose(losses, fixture["losses"], rtol=1e-4)
    assert relative(final.z, nhwc("z_final")) < 1e-4


@pytest.mark.parametrize("clip", ["hard", "straight_through"])
def test_closed_form_gradient_is_autodiff_with_stop_gradient(clip):
    def stopped(x, t):
        return jax.lax.stop_gradient(bent(x, t))

    z = 1.5 * Z  # so that some pixels are clipped
    now = restoration.bird_objective(DENOISER, SCHEDULE, BLUR, Y, "stop", clip=clip)(z)
    same = denoisers.from_eps(stopped, SCHEDULE)
    autodiff = restoration.bird_objective(same, SCHEDULE, BLUR, Y, "exact", clip=clip)(z)
    assert float(jnp.mean(jnp.abs(now.x0) == 1)) > 0.01
    np.testing.assert_allclose(now.grad_z, autodiff.grad_z, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(now.loss, autodiff.loss, rtol=1e-6)


def test_exact_gradient_is_the_directional_derivative_and_needs_no_stored_activations():
    objective = restoration.bird_objective(DENOISER, SCHEDULE, BLUR, Y, "exact")
    direction = rng.normal(rng.fold(KEYS, 3), Z)
    slope = jnp.sum(objective(Z).grad_z * direction, (1, 2, 3))

    def plain(z):  # no remat, no straight-through trick that hides a clip: nothing is clipped here
        x0, _, _ = restoration.ddim_rollout(DENOISER, SCHEDULE, z)
        return jnp.mean((BLUR(x0) - Y)**2, (1, 2, 3))

    np.testing.assert_allclose(jax.jvp(plain, (Z,), (direction,))[1], slope, rtol=2e-4, atol=1e-6)


def test_rollout_is_ddim_of_a_clipped_denoiser():
    x0, jacobian, eps = restoration.ddim_rollout(DENOISER, SCHEDULE, Z)
    clipped = denoisers.from_eps(bent, SCHEDULE, clip=True)
    expected, _ = samplers.sample(samplers.ddim(clipped, SCHEDULE), KEYS, Z)
    np.testing.assert_allclose(x0, expected, atol=2e-5)
    np.testing.assert_allclose(jacobian, 1 / np.sqrt(SCHEDULE.alpha_bar[-1]), rtol=1e-4)
    assert eps.shape == (5, *Z.shape)


def run(keys, z, y, **settings):
    kernel = restoration.bird(DENOISER, SCHEDULE, BLUR, y, restoration.bird_optimizer(num_iterations=6),
                              num_iterations=6, **settings)
    return samplers.sample(kernel, keys, z)


def test_loss_falls_and_z_stays_on_the_sphere():
    x0, info = run(KEYS, Z, Y)
    assert bool((info.steps.loss[-1] < info.steps.loss[0]).all())
    state = restoration.bird(DENOISER, SCHEDULE, BLUR, Y, optax.sgd(1.0), num_iterations=1).init(KEYS)
    np.testing.assert_allclose(jnp.linalg.norm(restoration.to_sphere(state.z).reshape(8, -1), axis=1), 192**0.5,
                               rtol=1e-6)
    np.testing.assert_array_equal(state.z, Z)


@pytest.mark.parametrize("settings", [{}, {"gradient": "exact"}, {"reuse": Reuse(1)}])
def test_one_image_alone_in_a_batch_and_on_eight_devices_without_talk(settings):
    program = jax.jit(lambda *arguments: run(*arguments, **settings)[0])
    batch = program(KEYS, Z, Y)
    np.testing.assert_allclose(program(KEYS[5:6], Z[5:6], Y[5:6]), batch[5:6], atol=1e-5)
    split = NamedSharding(sharding.data_mesh(), PartitionSpec("data"))
    arguments = [jax.device_put(a, split) for a in (KEYS, Z, Y)]
    np.testing.assert_allclose(program(*arguments), batch, atol=1e-5)
    text = program.lower(*arguments).compile().as_text()
    assert not any(word in text for word in ("all-reduce", "all-gather", "collective-permute", "all-to-all"))


def test_blind_kernel_is_learned_per_image():
    operator = operators.blind_blur(5)
    kernel = restoration.bird(DENOISER, SCHEDULE, operator, Y, restoration.bird_optimizer(num_iterations=4),
                              num_iterations=4)
    state = kernel.init(KEYS)
    start = operator.kernel(state.params)
    for i in range(4):
        state, _ = kernel.step(KEYS, state, i)
    end = operator.kernel(state.params)
    assert end.shape == (8, 5, 5) and float(jnp.abs(end - start).max()) > 1e-3
    assert float(jnp.abs(end[0] - end[1]).max()) > 1e-4
    np.testing.assert_allclose(end.sum((1, 2)), 1.0, rtol=1e-5)


def test_refresh_reuses_predictions_in_turn_and_ends_exactly():
    calls = []

    def counted(x, t):
        jax.debug.callback(lambda t: calls.append(float(t[0])), t)
        return bent(x, t)

    kernel = restoration.bird(denoisers.from_eps(counted, SCHEDULE), SCHEDULE, BLUR, Y,
                              restoration.bird_optimizer(num_iterations=7), num_iterations=7, reuse=Reuse(1))
    jax.block_until_ready(samplers.sample(kernel, KEYS, Z))
    jax.effects_barrier()
    assert len(calls) == 5 + 5 * 1 + 5
    assert len(set(calls[5:10])) == 5


def test_memory_of_stop_is_that_of_a_forward_pass():
    """The temporaries of one iteration grow neither with the levels nor with the network's depth."""
    def deep(x, t):
        for _ in range(8):
            x = jnp.sin(jnp.roll(x, 1, axis=1) + x)
        return x

    z, y = (jnp.zeros((1, 64, 64, 3)) for _ in range(2))

    def temporaries(gradient, num_levels):
        schedule = schedules.respace(schedules.linear(), num_levels, "linspace")
        objective = restoration.bird_objective(denoisers.from_eps(deep, schedule), schedule, lambda x: x, y, gradient)

        def needed(z):
            now = objective(z)
            return now.loss, now.grad_z

        return jax.jit(needed).lower(z).compile().memory_analysis().temp_size_in_bytes

    assert temporaries("stop", 20) < 1.2 * temporaries("stop", 5)
    assert temporaries("stop", 20) < 0.5 * temporaries("exact", 20)


def steps(kernel, state=None, start=0, stop=None):
    """A run step by step: the state and info after each."""
    step, states, infos = jax.jit(kernel.step), [kernel.init(Z) if state is None else state], []
    for i in range(start, kernel.num_steps if stop is None else stop):
        state, info = step(KEYS, states[-1], i)
        states.append(state)
        infos.append(info)
    return states[1:], infos


def bird(num_iterations=8, gradient="stop", **settings):
    optimizer = restoration.bird_optimizer(num_iterations=num_iterations)
    return restoration.bird(DENOISER, SCHEDULE, BLUR, Y, optimizer, gradient, num_iterations=num_iterations, **settings)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_average_of_the_pictures():
    state, info = steps(averaged(bird(4), 0.75))
    expected = np.asarray(info[0].x0)
    for now in info[1:]:
        expected = 0.75 * expected + 0.25 * np.asarray(now.x0)
    np.testing.assert_allclose(state[-1].x, expected, atol=1e-6)
    assert float(jnp.abs(state[-1].x - state[-1].extra.x0).max()) > 1e-2


def expected_stops(below, exact, patience):
    """Where each image of a run that nothing stops should have stopped; N where none of its N iterations is it."""
    good, stops = np.zeros(below.shape[1], int), np.full(below.shape[1], len(below))
    for i, row in enumerate(below):
        if exact[i]:
            good = np.where(row, good + 1, 0)
        stops = np.where((good >= patience) & (stops == len(below)), i, stops)
    return stops


@pytest.mark.parametrize("refresh, patience", [(None, 2), (1, 1)])
def test_an_image_whose_residual_is_noise_stays_as_it_is(refresh, patience):
    """When each image should stop follows from its losses in a run that does not stop."""
    kernel = bird(reuse=refresh and Reuse(refresh, check_every=2))
    states, infos = steps(stopped(kernel, 1e-9, patience=patience))
    losses = np.stack([info.loss for info in infos])
    limit = 1.0001 * np.sqrt(losses[np.arange(8), np.arange(8)])  # that of image i lies at its loss of iteration i
    limit[7] = 1e-9
    stops = expected_stops(losses <= limit**2, [refresh is None or i % 2 == 0 or i == 7 for i in range(8)], patience)
    assert len(set(stops)) > 3 and stops[7] == 8

    own_states, own = steps(stopped(kernel, jnp.asarray(limit), patience=patience))
    for i, info in enumerate(own):
        np.testing.assert_array_equal(info.stopped, stops <= i)
        np.testing.assert_array_equal(np.asarray(info.evaluations) == 0, stops < i)
    for image, at in enumerate(np.minimum(stops, 7)):
        np.testing.assert_allclose(own_states[-1].x[image], states[at].x[image], atol=1e-5)
        np.testing.assert_allclose(own[-1].loss[image], losses[at, image], rtol=1e-4)
        np.testing.assert_allclose(own_states[-1].inner.z[image], states[at].inner.z[image], atol=1e-5)
        np.testing.assert_array_equal(own_states[-1].inner.z[image], own_states[at].inner.z[image])


def test_what_belongs_to_no_image_is_never_kept_back():
    """Numbers of the whole batch, and tables of another length."""
    old = {"picture": jnp.zeros((2, 2, 3)), "count": jnp.array(4), "table": jnp.zeros((3, 2)), "each": jnp.zeros(2)}
    new = jax.tree.map(lambda leaf: leaf + 1, old)
    kept = _keep(jnp.array([True, False]), new, old)
    np.testing.assert_array_equal(kept["picture"][:, 0, 0], [0, 1])
    np.testing.assert_array_equal(kept["each"], [0, 1])
    assert kept["count"] == 5 and (kept["table"] == 1).all()


def test_nothing_is_evaluated_when_all_have_stopped():
    calls = []

    def counted(x, t):
        jax.debug.callback(lambda t: calls.append(float(t[0])), t)
        return bent(x, t)

    kernel = restoration.bird(denoisers.from_eps(counted, SCHEDULE), SCHEDULE, BLUR, Y, optax.sgd(1.0),
                              num_iterations=9)
    _, info = samplers.sample(stopped(kernel, 10.0, patience=2), KEYS, Z)
    jax.effects_barrier()
    assert len(calls) == 2 * 5 and info.steps.evaluations.sum() == 2 * 5 * 8


def test_guard_gives_exact_rollouts_to_the_images_that_were_led_astray():
    _, infos = steps(bird(reuse=Reuse(1, check_every=3, guard=1e9)))
    losses = np.stack([info.loss for info in infos])
    assert [int(info.evaluations[0]) for info in infos] == [5, 1, 1, 5, 1, 1, 5, 5]
    jump = losses[3] / losses[2]
    guard = float(np.median(jump))
    assert guard > 1 and (jump > 1.01 * guard).any() and (jump < 0.99 * guard).any()
    _, own = steps(bird(reuse=Reuse(1, check_every=3, guard=guard)))
    astray = jump > guard
    for i in (4, 5):
        np.testing.assert_array_equal(own[i].evaluations, np.where(astray, 5, 1))
    np.testing.assert_allclose(own[5].loss[~astray], losses[5][~astray], rtol=1e-4)
    assert not np.isclose(own[5].loss[astray], losses[5][astray], rtol=1e-3).any()


@pytest.mark.parametrize("kernel", [
    bird(7), stopped(averaged(bird(7, reuse=Reuse(1, check_every=2)), 0.9), 0.3)], ids=["plain", "wrapped"])
def test_a_run_saved_half_way_ends_as_the_whole_one_bit_by_bit(kernel, tmp_path):

    @jax.jit
    def advance(state, numbers):
        return jax.lax.scan(lambda state, i: kernel.step(KEYS, state, i), state, numbers)[0]

    whole = advance(kernel.init(Z), jnp.arange(7))
    half = advance(kernel.init(Z), jnp.arange(3))
    manager = checkpoints.manager(tmp_path)
    manager.save(3, args=orbax.args.StandardSave(half))
    manager.wait_until_finished()
    again = manager.restore(3, args=orbax.args.StandardRestore(jax.tree.map(jnp.zeros_like, half)))
    manager.close()
    same(half, again)
    same(whole, advance(again, jnp.arange(3, 7)))
    alone = steps(kernel)[0][-1]  # other programs, other roundings
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), whole.x, alone.x)


def test_a_cheap_start_can_be_continued_exactly():
    start = steps(averaged(bird(reuse=Reuse(1)), 0.5), stop=5)[0][-1].extra
    kernel = bird(gradient="exact")
    states, infos = steps(kernel, start, 5)
    objective = restoration.bird_objective(DENOISER, SCHEDULE, BLUR, Y, "exact")
    with jax.numpy_dtype_promotion("standard"):
        update, _ = jax.vmap(restoration.bird_optimizer(num_iterations=8).update)(  # one for each image
            {"z": objective(start.z).grad_z, "params": None}, start.opt_state)
    np.testing.assert_allclose(states[0].z, restoration.to_sphere(start.z + update["z"]), atol=1e-5)
    assert bool((infos[-1].loss < infos[0].loss).all())
    same(start.reused, states[-1].reused)


def test_the_exact_gradient_at_given_unknowns_is_that_of_the_known_operator():
    blind = operators.blind_blur(3, start_sigma=0.8)
    params = blind.init(KEYS)
    guessed = jax.jit(restoration.bird_objective(DENOISER, SCHEDULE, blind, Y, "exact"))(Z, params)
    known = jax.jit(restoration.bird_objective(DENOISER, SCHEDULE, operators.blur(blind.kernel(params)), Y, "exact"))(Z)
    np.testing.assert_allclose(guessed.loss, known.loss, rtol=1e-5)
    np.testing.assert_allclose(guessed.grad_z, known.grad_z, rtol=1e-3, atol=1e-6)


def test_noise_alone_has_unknowns_for_each_picture():
    blind = operators.blind_blur(3)
    state = restoration.bird(DENOISER, SCHEDULE, blind, Y[:2], optax.sgd(1.0), num_iterations=1).init(Z[:2])
    assert {leaf.shape[0] for leaf in jax.tree.leaves(state.params)} == {2} != {Z.shape[1]}


@pytest.mark.parametrize("settings, words", [
    ({"gradient": "full"}, "stop, exact, prox"), ({"clip": "soft"}, "straight_through, hard"),
    ({"reuse": Reuse(6)}, "between 1 and the 5"), ({"num_iterations": 0}, "at least 1"),
    ({"reuse": Reuse(1, check_every=0)}, "check_every must be at least 1"),
    ({"reuse": Reuse(1, guard=2.0)}, "needs check_every"),
    ({"reuse": Reuse(1, check_every=2, guard=0.5)}, "guard must be at least 1"),
])
def test_refusals(settings, words):
    with pytest.raises(ValueError, match=words):
        restoration.bird(DENOISER, SCHEDULE, BLUR, Y, optax.sgd(1.0), **settings)


def test_refusals_of_the_wrappers():
    with pytest.raises(ValueError, match="below 1"):
        averaged(bird(), 1.0)
    with pytest.raises(ValueError, match="patience must be"):
        stopped(bird(), 0.1, patience=0)


def test_prox_by_name_is_the_proximal_step_and_needs_a_known_operator():
    def nearest(x0):
        return operators.proximal(BLUR, Y, x0, 0.01)

    by_name, by_function = (restoration.bird_objective(DENOISER, SCHEDULE, BLUR, Y, gradient)(Z)
                            for gradient in ("prox", nearest))
    same(by_name, by_function)
    wanted = (by_name.x0 - jnp.clip(nearest(by_name.x0), -1, 1)) / np.sqrt(SCHEDULE.alpha_bar[-1])
    np.testing.assert_allclose(by_name.grad_z, wanted, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="has unknowns"):
        restoration.bird_objective(DENOISER, SCHEDULE, operators.blind_blur(3), Y, "prox")


def test_operator_that_changes_the_shape_needs_noise_of_the_pictures_shape():
    operator = operators.downsample(4)
    kernel = restoration.bird(DENOISER, SCHEDULE, operator, Y[:, :2, :2], optax.sgd(1.0))
    with pytest.raises(ValueError, match="give the noise z itself"):
        kernel.init(KEYS)
    assert kernel.init(Z, KEYS).x0.shape == (8, 8, 8, 3)
    with pytest.raises(ValueError, match="of the pictures' shape"):
        kernel.init(Z[:4])
    with pytest.raises(ValueError, match="of the pictures' shape"):
        bird().init(Z[:, :4])


def test_a_plain_function_that_changes_the_shape():
    """It says nothing of its shapes; they are those of what it returns."""
    def columns(x):
        return jnp.mean(x, axis=(2, 3))

    kernel = restoration.bird(DENOISER, SCHEDULE, columns, columns(Y), optax.sgd(1.0), num_iterations=2)
    state, info = kernel.step(KEYS, kernel.init(Z, KEYS), 0)
    assert state.x0.shape == Z.shape and info.loss.shape == (8,)
    with pytest.raises(ValueError, match="give the noise z itself"):
        kernel.init(KEYS)
    halved = restoration.bird(DENOISER, SCHEDULE, lambda x: x[:, ::2], Y[:, ::2], optax.sgd(1.0))
    for wrong in (Z[:, :4], KEYS):
        with pytest.raises(ValueError, match="of the pictures' shape"):
            halved.init(wrong)
