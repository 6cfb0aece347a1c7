"""From a picture to its restoration with a diffusion prior that an invertible network guides: sizes, tiles, keys.
What ``--method indigo`` and ``--method latent-indigo`` run.

As in :mod:`indigo_jax.pipeline`, each picture is one program call with a key drawn from its content. Only the prior and
the autoencoder see tiles; estimate, energy and invertible network belong to the whole.
"""
from indigo_jax.guided.layout import Layout
from indigo_jax.guided.loading import METHODS, VARIANTS, load
from indigo_jax.guided.program import Networks, Restored, restore
from indigo_jax.guided.restoration import IndigoRestoration, Report
from indigo_jax.guided.settings import REGULARIZERS, Settings

__all__ = ["IndigoRestoration", "Layout", "METHODS", "Networks", "REGULARIZERS", "Report", "Restored", "Settings",
           "VARIANTS", "load", "restore"]
