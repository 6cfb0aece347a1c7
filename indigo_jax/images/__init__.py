"""Reading and writing picture files safely.

A picture in memory is float32 ``[H, W, 3]`` in [-1, 1], RGB; :class:`Picture` carries beside it what the file had and
a restored file should have too: transparency, greyness, 16 bits, the colour profile, EXIF.
"""
from indigo_jax.images.comparison import grid, side_by_side
from indigo_jax.images.picture import EXTENSIONS, ImageError, Picture
from indigo_jax.images.reading import MAX_PIXELS, by_stem, list_pictures, read, read_rgb8
from indigo_jax.images.transparency import fill_hidden, resize_alpha
from indigo_jax.images.writing import write

__all__ = ["EXTENSIONS", "ImageError", "MAX_PIXELS", "Picture", "by_stem", "fill_hidden", "grid", "list_pictures",
           "read", "read_rgb8", "resize_alpha", "side_by_side", "write"]
