"""Image metrics: one number per image, the protocol in the name; ``by_name("psnr-y-bt601-crop4-u8")(a, b)``."""
from indigo_jax.metrics.lpips import load_lpips, lpips
from indigo_jax.metrics.protocol import ALIASES, Protocol, Score, by_name, require_same
from indigo_jax.metrics.psnr import psnr, psnr_jax
from indigo_jax.metrics.scores import Scores, compare, score_pairs
from indigo_jax.metrics.ssim import ssim

__all__ = ["ALIASES", "Protocol", "Score", "Scores", "by_name", "compare", "load_lpips", "lpips", "psnr", "psnr_jax",
           "require_same", "score_pairs", "ssim"]
