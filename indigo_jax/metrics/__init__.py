"""Image metrics: one number per image or set, the protocol in the name; ``by_name("psnr-y-bt601-crop4-u8")(a, b)``."""
from indigo_jax.metrics.frechet import (Kid, Statistics, feature_statistics, fid, kid, load_statistics,
                                        merge_statistics, save_statistics)
from indigo_jax.metrics.inception_input import inception_input
from indigo_jax.metrics.lpips import load_lpips, lpips
from indigo_jax.metrics.lpips_networks import network_of as lpips_network
from indigo_jax.metrics.ms_ssim import ms_ssim
from indigo_jax.metrics.niqe import NiqeModel, default_niqe, load_niqe, niqe, niqe_features, niqe_model, niqe_parameters
from indigo_jax.metrics.protocol import ALIASES, Protocol, Score, by_name, require_same
from indigo_jax.metrics.psnr import psnr, psnr_jax
from indigo_jax.metrics.scores import Scores, compare, score_pairs
from indigo_jax.metrics.sets import USUAL_COUNT, FeatureNetwork, SetProtocol, feature_network, is_of_sets, set_by_name
from indigo_jax.metrics.ssim import ssim

__all__ = ["ALIASES", "FeatureNetwork", "Kid", "NiqeModel", "Protocol", "Score", "Scores", "SetProtocol", "Statistics",
           "USUAL_COUNT", "by_name", "compare", "default_niqe", "feature_network", "feature_statistics", "fid",
           "inception_input", "is_of_sets", "kid", "load_lpips", "load_niqe", "load_statistics", "lpips",
           "lpips_network", "merge_statistics", "ms_ssim", "niqe", "niqe_features", "niqe_model", "niqe_parameters",
           "psnr", "psnr_jax", "require_same", "save_statistics", "score_pairs", "set_by_name", "ssim"]
