"""Reading and writing picture files safely.

A picture in memory is float32 ``[H, W, 3]`` in [-1, 1], RGB; :class:`Picture` carries beside it what the file had and
a restored file should have too: transparency, greyness, 16 bits, the colour profile, EXIF, XMP, the resolution.
"""
from indigo_jax.images.checking import check
from indigo_jax.images.comparison import grid, side_by_side, side_by_side_size
from indigo_jax.images.listing import Listing, by_stem, find_pictures, list_pictures
from indigo_jax.images.picture import EXTENSIONS, ImageError, Picture
from indigo_jax.images.reading import MAX_PIXELS, read, read_rgb8
from indigo_jax.images.sizes import enlarged_by, shrunk_by
from indigo_jax.images.transparency import fill_hidden, resize_alpha, to_measure
from indigo_jax.images.writing import check_size, check_target, write

__all__ = ["EXTENSIONS", "ImageError", "Listing", "MAX_PIXELS", "Picture", "by_stem", "check", "check_size",
           "check_target", "enlarged_by", "fill_hidden", "find_pictures", "grid", "list_pictures", "read", "read_rgb8",
           "resize_alpha", "shrunk_by", "side_by_side", "side_by_side_size", "to_measure", "write"]
