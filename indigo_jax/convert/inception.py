"""InceptionV3 of the Frechet inception distance, in torch's names (``pt_inception-2015-12-05``)."""
import numpy as np

from indigo_jax.convert import strict
from indigo_jax.models import InceptionV3

_EPSILON = 1e-3  # of its batch normalisation
_LAST = ("fc.weight", "fc.bias", "AuxLogits.")  # classes, which have no part in the features


def inception(state_dict: dict[str, np.ndarray]) -> dict:
    """Parameters of :class:`models.InceptionV3`, each batch normalisation folded into the convolution before it.

    ``w' = w gamma / sqrt(v + 0.001)``, ``b' = beta - m gamma / sqrt(v + 0.001)``, computed in float64.

    Args:
        state_dict: ``{torch parameter name: array}``: ``Conv2d_1a_3x3.conv.weight``, ``Conv2d_1a_3x3.bn.weight``,
            ``Conv2d_1a_3x3.bn.running_mean`` and so on; the classes may be there, and are left out.

    Errors:
        ValueError that names what is missing, unknown or of another shape.
    """
    state_dict = {name: np.asarray(value, np.float64) for name, value in state_dict.items()
                  if not name.startswith(_LAST) and not name.endswith(".num_batches_tracked")}
    tensors = {}
    for name, kernel in state_dict.items():
        scope, _, leaf = name.rpartition(".conv.")
        if leaf != "weight":
            if ".bn." not in name:
                raise ValueError(f"InceptionV3 has unknown {name}")
            continue
        parts = [f"{scope}.bn.{each}" for each in ("weight", "bias", "running_mean", "running_var")]
        missing = [each for each in parts if each not in state_dict]
        if missing:
            raise ValueError(f"InceptionV3 lacks {missing[0]}: its batch normalisation is needed beside {name}")
        gamma, beta, mean, variance = (state_dict[each] for each in parts)
        if kernel.ndim != 4 or any(each.shape != kernel.shape[:1] for each in (gamma, beta, mean, variance)):
            raise ValueError(f"{name}: its batch normalisation is of another width than its {kernel.shape}")
        gain = gamma / np.sqrt(variance + _EPSILON)
        ours = scope.replace(".", "_")
        tensors[f"{ours}/kernel"] = (kernel * gain[:, None, None, None]).transpose(2, 3, 1, 0)
        tensors[f"{ours}/bias"] = beta - mean * gain
    module = InceptionV3(**inception_arguments(state_dict))
    side = module.smallest
    return strict.check(strict.nest(tensors), module, source="the state_dict", inputs=((1, side, side, 3),))


def inception_arguments(state_dict: dict[str, np.ndarray]) -> dict:
    """The constructor arguments of :class:`models.InceptionV3` that the first kernel's shape tells.

    Errors:
        ValueError if it is no such checkpoint.
    """
    first = np.shape(state_dict.get("Conv2d_1a_3x3.conv.weight", ()))
    if len(first) != 4 or first[0] not in (2, 4, 8, 16, 32):
        raise ValueError(f"not an InceptionV3: no Conv2d_1a_3x3.conv.weight [32, 3, 3, 3] among its "
                         f"{len(state_dict)} names")
    divisor = 32 // first[0]
    return {"divisor": divisor} if divisor > 1 else {}
