"""One step of every training: the optimiser's, and the moving average of the parameters, against plain numbers."""
import types

import jax.numpy as jnp
import numpy as np
import optax

from train import loop


def test_the_average_follows_the_parameters():
    """Loss ``2 w``, steps of 0.1: w = -0.2, -0.4, ...; the average with decay min(0.5, (1 + k) / (10 + k))."""
    config = types.SimpleNamespace(accumulate=1, ema=0.5, remat="none", sharding_rules=None)
    optimizer, w = optax.sgd(0.1), {"w": jnp.zeros(())}
    state = loop.TrainState(jnp.zeros((), jnp.int32), w, w, optimizer.init(w), jnp.full((), -1, jnp.int32))
    average = 0.0

    def loss(params, x):
        return jnp.mean(2 * params["w"] * x)

    for k in range(12):
        state, numbers = loop.update(config, optimizer, state, loss, jnp.ones(4))
        decay = min(0.5, (1 + k) / (10 + k))
        average = decay * average + (1 - decay) * -0.2 * (k + 1)
        np.testing.assert_allclose(state.params["w"], -0.2 * (k + 1), rtol=1e-5)
        np.testing.assert_allclose(state.ema["w"], average, rtol=1e-5)
        np.testing.assert_allclose(numbers["grad_norm"], 2.0, rtol=1e-6)
    assert state.step == 12 and state.bad_step == -1
