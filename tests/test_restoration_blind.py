"""BlindDPS, GDP and GibbsDDRM, the opponents of blind restoration: their equations in float64 for Gaussian pictures."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import operators, restoration, rng, samplers, schedules
from tests.oracles import GaussianDiffusion

COUNT, SHAPE = 4096, (1, 4, 1)
KEYS = rng.image_keys(0, np.arange(COUNT))
NOISE = rng.normal(rng.init_keys(KEYS), jnp.zeros((COUNT, *SHAPE)))
PICTURES, KERNELS, KNOWN = GaussianDiffusion(0.2, 0.5), GaussianDiffusion(-0.3, 0.4), GaussianDiffusion(0.5, 1e-4)
WHOLE, OTHER = schedules.karras(300, 0.02, 20.0), schedules.linear(300)
FEW, FEW_OTHER = (schedules.respace(s, 6, spacing) for s, spacing in ((WHOLE, "karras"), (OTHER, "linspace")))
Y = np.array([0.7, -0.4, 0.1, 0.9])


def repeated(count):
    return jnp.repeat(jnp.asarray(Y, jnp.float32).reshape(1, *SHAPE), count, axis=0)


class Gain:
    """``y = phi x``, phi a number per image."""

    def init(self, keys):
        return jnp.ones(keys.shape)

    def __call__(self, x, phi):
        return phi[:, None, None, None] * x


def blind_dps(d, y, **known):
    known = {"scale": 0.3, "kernel_scale": 0.2, "sparsity": 0.05,
             "measure": lambda x0, k0: x0 * jnp.mean(k0, (1, 2, 3), keepdims=True), **known}
    return restoration.blind_dps(d, FEW, KERNELS.denoiser(OTHER), FEW_OTHER, y, size=3, **known)


MAKERS = {
    "blind_dps": blind_dps,
    "gdp": lambda d, y, **known: restoration.gdp(d, FEW, Gain(), y, **known),
    "gibbs_ddrm": lambda d, y, **known: restoration.gibbs_ddrm(
        d, FEW, Gain(), lambda phi: (jnp.abs(phi)[:, None, None, None], lambda x: x, lambda c: c), y, 0.1, **known)}


def last(kernel, count, keys=KEYS):
    """The last state from :data:`NOISE`."""
    def loop(keys, z):
        return jax.lax.fori_loop(0, kernel.num_steps, lambda i, state: kernel.step(keys, state, i)[0],
                                 kernel.init(z, keys))

    return jax.jit(loop)(keys[:count], NOISE[:count])


def levels(schedule):
    """``(a_t, a_s)`` as visited, in float64."""
    a = np.asarray(schedule.alpha_bar, np.float64)[::-1]
    return zip(a, np.append(a[1:], 1.0))


def denoised(gaussian, x, a):
    """And its slope."""
    slope = gaussian.std**2 * a**0.5 / (a * gaussian.std**2 + 1 - a)
    return gaussian.mean + slope * (x - a**0.5 * gaussian.mean), slope


def test_blind_dps_is_its_algorithm():
    """Without new noise, number for number; both gradients by hand."""
    kernel = blind_dps(PICTURES.denoiser(WHOLE), repeated(5), eta=0.0)
    found = last(kernel, 5)
    start = kernel.init(NOISE[:5], KEYS[:5])
    assert start.extra.shape == (5, 3, 3, 1) and bool((start.extra[0] != start.extra[1]).any())
    for row in range(5):
        x, k = (np.ravel(part[row]).astype(np.float64) for part in (start.x, start.extra))
        for (a_t, a_s), (b_t, b_s) in zip(levels(FEW), levels(FEW_OTHER)):
            (x0, of_x), (k0, of_k) = denoised(PICTURES, x, a_t), denoised(KERNELS, k, b_t)
            left = x0 * k0.mean() - Y
            size = np.linalg.norm(left)
            down_x = 0.3 * of_x * k0.mean() * left / size
            down_k = 0.2 * of_k * (x0 @ left / size / 9 + 0.05 * np.sign(k0 + 1))
            x = a_s**0.5 * x0 + (1 - a_s)**0.5 * (x - a_t**0.5 * x0) / (1 - a_t)**0.5 - down_x
            k = b_s**0.5 * k0 + (1 - b_s)**0.5 * (k - b_t**0.5 * k0) / (1 - b_t)**0.5 - down_k
        np.testing.assert_allclose(np.ravel(found.x[row]), x, atol=3e-4)
        np.testing.assert_allclose(np.ravel(found.extra[row]), k, atol=3e-4)


def test_blind_dps_without_guidance_draws_from_both_priors():
    found = last(blind_dps(PICTURES.denoiser(WHOLE), repeated(COUNT), scale=0.0, kernel_scale=0.0), COUNT)
    for x, gaussian, schedule in ((found.x, PICTURES, FEW), (found.extra, KERNELS, FEW_OTHER)):
        mean, std = gaussian.output_law(schedule, eta=1.0)
        assert abs(float(x.mean()) - mean) < 5 * std / COUNT**0.5 and abs(float(x.std()) / std - 1) < 4 / COUNT**0.5
    assert abs(float(jnp.mean((found.x[..., 0] - found.x.mean()) * (found.extra[:, :1, :1, 0] - found.extra.mean()))
                     )) < 5 / COUNT**0.5 * 0.2  # of their own keys


def test_a_kernel_of_three_channels_is_their_mean():
    """Three channels that start alike stay alike, and are the chain of one channel."""
    def one(k_t, t):
        return KERNELS.denoiser(OTHER)(k_t, t)

    def measure(x0, k0):
        return x0 * jnp.mean(k0, (1, 2, 3), keepdims=True)

    known = dict(size=3, kernel_scale=0.2, sparsity=0.05, eta=0.0, measure=measure)
    chains = [restoration.blind_dps(PICTURES.denoiser(WHOLE), FEW, one, FEW_OTHER, repeated(2), channels=channels,
                                    **known | {"kernel_scale": 0.2 * channels}) for channels in (1, 3)]
    states = [chain.init(NOISE[:2], KEYS[:2]) for chain in chains]
    assert states[1].extra.shape == (2, 3, 3, 3)
    states[1] = states[1]._replace(extra=jnp.repeat(states[0].extra, 3, axis=3))
    for i in range(chains[0].num_steps):
        states = [chain.step(KEYS[:2], state, i)[0] for chain, state in zip(chains, states)]
    np.testing.assert_allclose(states[1].x, states[0].x, atol=1e-4)
    np.testing.assert_allclose(states[1].extra, jnp.repeat(states[0].extra, 3, axis=3), atol=1e-4)


def test_kernels_and_their_pictures():
    kernel = operators.motion_kernel(KEYS[:2], size=7, length=5.0)
    np.testing.assert_allclose(restoration.kernel_of(restoration.picture_of(kernel)), kernel, atol=1e-5)
    y = operators.blur(kernel)(rng.normal(KEYS[:2], jnp.zeros((2, 9, 9, 3))))
    by_default = restoration.blind_dps(PICTURES.denoiser(WHOLE), FEW, KERNELS.denoiser(OTHER), FEW_OTHER, y, size=7)
    state, info = by_default.step(KEYS[:2], by_default.init(jnp.zeros_like(y), KEYS[:2]), 0)
    wanted = operators.blur(restoration.kernel_of(KERNELS.denoiser(OTHER)(
        by_default.init(jnp.zeros_like(y), KEYS[:2]).extra, jnp.full(2, FEW_OTHER.timesteps[-1])).x0))(info.x0) - y
    np.testing.assert_allclose(info.residual, jnp.sqrt(jnp.mean(wanted**2, (1, 2, 3))), rtol=1e-4)
    assert np.isfinite(state.x).all()


def test_gdp_has_the_law_of_its_algorithm():
    """A mask, nothing unknown."""
    mask, scale = np.array([1.0, 0.0, 1.0, 1.0]), 0.1
    mean, variance = np.zeros(4), np.ones(4)
    for a_t, a_s in levels(FEW):
        offset, slope = denoised(PICTURES, 0.0, a_t)
        added = (1 - a_s) / (1 - a_t) * (1 - a_t / a_s)
        of_eps = max(1 - a_s - added, 0)**0.5 / (1 - a_t)**0.5
        of_x0 = a_s**0.5 - of_eps * a_t**0.5 - 2 * scale * mask
        mean = of_x0 * (offset + slope * mean) + of_eps * mean + 2 * scale * mask * Y
        variance = (of_x0 * slope + of_eps)**2 * variance + added
    operator = operators.inpaint(jnp.asarray(mask[None], jnp.float32))
    kernel = restoration.gdp(PICTURES.denoiser(WHOLE), FEW, operator, operator(repeated(COUNT)), scale=scale)
    found = last(kernel, COUNT)
    x, std = np.asarray(found.x).reshape(COUNT, 4), variance**0.5
    np.testing.assert_array_less(abs(x.mean(0) - mean), 4 * std / COUNT**0.5)
    np.testing.assert_allclose(x.std(0), std, rtol=4 / COUNT**0.5)


def test_gdp_descends_in_the_unknowns():
    phi = 1.0
    for _ in range(6):
        phi -= 0.2 * 2 * np.sum(0.5 * (0.5 * phi - Y))
    found = last(MAKERS["gdp"](KNOWN.denoiser(WHOLE), repeated(3), rate=0.2, scale=0.0), 3)
    np.testing.assert_allclose(found.extra, phi, rtol=1e-3)


@pytest.mark.parametrize("cold", [False, True])
def test_gibbs_ddrm_draws_the_unknowns_by_langevins_method(cold):
    """Of known pictures, with a Gaussian prior of the unknown: an affine recursion, near its posterior."""
    m, rate, sigma, tight = 0.5, 0.4, 0.1, 20.0
    mean, variance = 1.0, 0.0
    for _ in range(6 * 10):
        slope = 1 - rate / 2 * (4 * m**2 + sigma**2 * tight)
        mean = slope * mean + rate / 2 * (m * Y.sum() + sigma**2 * tight * 0.8)
        variance = slope**2 * variance + (not cold) * rate * sigma**2
    kernel = MAKERS["gibbs_ddrm"](KNOWN.denoiser(WHOLE), repeated(COUNT), rate=rate, num_langevin=10, cold=cold,
                                  log_prior=lambda phi: -tight / 2 * (phi - 0.8)**2)
    phi = np.asarray(last(kernel, COUNT).extra)
    assert abs(phi.mean() - mean) < 4 * variance**0.5 / COUNT**0.5 + 1e-3
    assert abs(phi.std() - variance**0.5) < 4 * variance**0.5 / COUNT**0.5 + 1e-3
    exact = 1 / (4 * m**2 / sigma**2 + tight)
    assert cold or abs(variance / exact - 1) < 0.2  # the bias of its step length
    assert abs(mean - exact * (m * Y.sum() / sigma**2 + tight * 0.8)) < 1e-3


def test_gibbs_ddrm_with_a_known_blur_is_ddrm():
    y, start = rng.normal(KEYS[:2], jnp.zeros((2, 6, 7, 3))), rng.normal(KEYS[2:4], jnp.zeros((2, 6, 7, 3)))
    kernel = jnp.asarray(np.random.default_rng(0).dirichlet(np.ones(9), 2).reshape(2, 3, 3), jnp.float32)

    class Blind:
        def init(self, keys):
            return kernel

        def __call__(self, x, k):
            return operators.blur(k, boundary="periodic")(x)

    blur = operators.blur(kernel, boundary="periodic")
    values, to_basis, from_basis = restoration.fourier_svd(kernel, 6, 7)
    squares = (values**2).astype(jnp.complex64)
    np.testing.assert_allclose(from_basis(squares * to_basis(y)), blur.adjoint(blur(y)), atol=1e-5)
    chains = (restoration.ddrm(PICTURES.denoiser(WHOLE), FEW, blur, y, 0.1, svd=(values, to_basis, from_basis)),
              restoration.gibbs_ddrm(PICTURES.denoiser(WHOLE), FEW, Blind(), lambda k: restoration.fourier_svd(k, 6, 7),
                                     y, 0.1, num_langevin=0))
    np.testing.assert_allclose(*(jax.jit(lambda keys, z, chain=chain: samplers.sample(chain, keys, z)[0])(
        KEYS[:2], start) for chain in chains), atol=1e-5)


@pytest.mark.parametrize("call, words", [
    (lambda: restoration.blind_dps(None, FEW, None, WHOLE, NOISE, size=3), "both diffusions take the same steps"),
    (lambda: restoration.blind_dps(None, FEW, None, FEW, NOISE, size=3, sparsity=-1), "sparsity must be at least 0"),
    (lambda: restoration.blind_dps(None, FEW, None, FEW, NOISE, size=3, channels=0), "channels must be at least 1"),
    (lambda: restoration.gdp(None, FEW, Gain(), NOISE, rate=-1.0), "rate must be at least 0"),
    (lambda: restoration.gibbs_ddrm(None, FEW, Gain(), None, NOISE, 0.1, rate=0.0), "rate must be above 0"),
])
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call()
