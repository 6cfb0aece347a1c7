"""TIFF files, whose layouts are many: planes, tiles, inks, any number of bits. Read right, or refused by name."""
import importlib.util
import logging
import zlib

import numpy as np

from indigo_jax.images import metadata
from indigo_jax.images.picture import ImageError

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # it logs what it meets; errors say all that matters

_WHITE0, _BLACK0, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_SAMPLES = {_WHITE0: 1, _BLACK0: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3}
_COLOURS = {4: "a mask", 8: "Lab", 9: "Lab", 10: "Lab", 32803: "a camera's raw data", 34892: "a camera's raw data",
            32844: "LogLuv", 32845: "LogLuv"}
_NONE, _LZW, _DEFLATE, _PACKBITS = 1, 5, (8, 32946), 32773
_OWN = (_NONE, *_DEFLATE, _PACKBITS)  # read without imagecodecs
_WITH_IMAGECODECS = (_LZW, 34925, 50000)
_PILLOWS = (2, 3, 4, _LZW, 7, *_OWN)
_RAW_TAGS = (33421, 50706)  # CFARepeatPatternDim, DNGVersion
_FLOATS = (16, 32, 64)  # bits of floating-point values
_MOST_EXTRA = 4
_LARGEST_SURPLUS = 1 << 26


def decode(stream, check_size, name):
    """Read the first page of a TIFF file.

    Args:
        stream: seekable.
        check_size: ``check_size((width, height))`` refuses what is too large.
        name: for errors.

    Returns:
        ``(values, alpha, facts)``: uint8 or uint16 ``[H, W]``, ``[H, W, 3]`` or CMYK ``[H, W, 4]`` as stored; straight
        alpha float32 ``[H, W]`` or None; the other fields of Picture. Values are None where Pillow has to read them.

    Errors:
        :class:`ImageError` for what is refused; anything else for damaged files.
    """
    import tifffile
    with tifffile.TiffFile(stream) as file:
        page = file.pages.first
        if any(len(page.tags.getall(tag, ())) > 1 for tag in (256, 257, 258, 262, 277)):
            raise ValueError("two sizes or layouts of one page")
        check_size((page.imagewidth, page.imagelength))
        bits = _check_layout(page, name)
        expected = _SAMPLES[int(page.photometric)]
        extra = [int(kind) for kind in page.extrasamples][:page.samplesperpixel - expected]
        if page.samplesperpixel > expected and not page.extrasamples:
            extra = [2]  # as Pillow and others take a channel that nothing is said about
        orientation = page.tags.valueof(274, 1)
        facts = {"format": "TIFF", "sixteen_bit": bits > 8, "frames": _count(file, page), "mode": _mode(page, bits),
                 **metadata.of_tiff(stream, page.tags.valueof(700))}
        profile = page.tags.valueof(34675)
        facts["icc_profile"] = bytes(profile) if profile else None
        grey = int(page.photometric) in (_WHITE0, _BLACK0)
        ignored = len(extra) - (extra[:1] in ([1], [2]))
        if ignored:
            channels = "1 channel" if ignored == 1 else f"{ignored} channels"
            facts["notes"] += (f"{channels} beside the colours, of unknown meaning, left out",)
        if not _is_ours(page, bits, name):
            return None, None, {**facts, "grey": grey}
        samples = _samples(page, bits)
        if samples.dtype.kind == "f":
            samples, bits = _from_floats(samples, name), 16
            facts["notes"] += ("its floating-point values from 0 to 1 are read as 16 bits",)
        values, alpha = _colours(page, samples, bits, expected), None
        if extra[:1] in ([1], [2]):
            alpha = samples[..., expected].astype(np.float32) / np.float32(2 ** bits - 1)
            if extra[0] == 1:
                values = _straight(values, alpha)
        values, alpha = (array if array is None else _upright(array, orientation) for array in (values, alpha))
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    return values, alpha, {**facts, "grey": grey}


def _check_layout(page, name):
    """Refuse what has no one meaning, or none that is known; the bits of each sample."""
    def refuse(what):
        raise ImageError(f"{name}: {what}; convert it to 8 or 16 bits per channel, grey, RGB or CMYK")

    photometric = int(page.photometric)
    if any(tag in page.tags for tag in _RAW_TAGS):
        refuse(f"{_COLOURS[32803]} in a TIFF file, which need to be developed first")
    if photometric not in _SAMPLES:
        refuse(f"pixels of kind {_COLOURS.get(photometric, photometric)!r} (PhotometricInterpretation {photometric}), "
               "which are not read")
    bits, kinds = np.unique(page.bitspersample), np.unique(page.sampleformat or 1)
    if len(bits) > 1 or len(kinds) > 1:
        refuse("channels of different kinds in one TIFF file")
    bits, kind = int(bits[0]), int(kinds[0])
    if kind == 3 and bits in _FLOATS and photometric in (_WHITE0, _BLACK0, _RGB):
        if int(page.predictor) == 3 and importlib.util.find_spec("imagecodecs") is None:
            raise ImageError(f"{name}: floating-point pixels that were packed in a way that needs another package; "
                             "install what reads it, pip install 'indigo-jax[tiff]', or save it without compression")
        return bits
    if kind not in (1, 4) or bits > 16:
        words = {2: "signed ", 3: "floating-point "}.get(kind, "")
        refuse(f"{bits}-bit {words}pixels, whose range is unknown")
    extra = page.samplesperpixel - _SAMPLES[photometric]
    if extra > _MOST_EXTRA or page.imagedepth > 1:
        refuse(f"{page.samplesperpixel} channels and a depth of {page.imagedepth}, not a picture")
    if photometric == _CMYK and int(page.tags.valueof(332, 1)) != 1:
        refuse("inks other than cyan, magenta, yellow and black")
    if extra < 0 or bits < 1:
        raise ValueError(f"{page.samplesperpixel} channels of {bits} bits")
    return bits


def _is_ours(page, bits, name):
    """Whether tifffile reads the pixels; if not, Pillow does. Refuses what neither reads."""
    kind, photometric = int(page.compression), int(page.photometric)
    has_codecs = importlib.util.find_spec("imagecodecs") is not None
    whole = bits in (8, *_FLOATS) or (bits == 1 and page.samplesperpixel == 1)
    if photometric != _YCBCR and (kind in _OWN and whole or has_codecs and kind in (*_OWN, *_WITH_IMAGECODECS)):
        return True
    plain = page.planarconfig == 1 or page.samplesperpixel == 1
    known = {1: (_WHITE0, _BLACK0, _PALETTE), 2: (_WHITE0, _BLACK0, _PALETTE), 4: (_WHITE0, _BLACK0, _PALETTE),
             8: tuple(_SAMPLES), 16: (_BLACK0, _RGB)}
    plain &= photometric in known.get(bits, ()) and (bits == 8 or page.samplesperpixel == _SAMPLES[photometric])
    if photometric == _YCBCR:
        plain &= kind == 7
    if plain and kind in _PILLOWS:
        return False
    what = f"compression {getattr(page.compression, 'name', kind)}, {bits} bits, {page.samplesperpixel} channels"
    how = ("install what reads it, pip install 'indigo-jax[tiff]', or save it without compression"
           if kind in (*_OWN, *_WITH_IMAGECODECS) and not has_codecs and photometric != _YCBCR
           else "save it without compression, with 8 or 16 bits per channel")
    raise ImageError(f"{name}: a TIFF layout that is not read ({what}); {how}")


def _samples(page, bits):
    """The stored samples uint8, uint16 or floating-point ``[H, W, samples]``; refuses missing or surplus data."""
    sizes = page.databytecounts
    count, end = int(np.prod(page.chunked)), page.parent.filehandle.size
    pairs = list(zip(page.dataoffsets, sizes))
    if len(pairs) != count or len(sizes) != count:
        raise ValueError(f"{min(len(page.dataoffsets), len(sizes))} of {count} pieces")
    if any(start <= 0 or length <= 0 or start + length > end for start, length in pairs):
        raise ValueError("a piece lies outside the file")
    piece = int(np.prod(page.chunks))
    if piece > 4 * int(np.prod(page.shape)) + (1 << 22):
        raise ValueError(f"pieces of {piece:,} values")
    if int(page.compression) == _NONE and sum(sizes) * 8 < int(np.prod(page.shape)) * bits:
        raise ValueError("fewer values than pixels")
    if int(page.compression) in (*_DEFLATE, 34925):
        for start, length in pairs:
            _check_inflated(page, start, length, piece * max(1, bits // 8))
    array = page.asarray(squeeze=False, maxworkers=1)
    planes, depth, height, width, channels = array.shape
    if (height, width) != (page.imagelength, page.imagewidth) or depth != 1 or 1 not in (planes, channels):
        raise ValueError(f"an unusual layout {list(array.shape)}")
    array = array[:, 0].transpose(1, 2, 0, 3).reshape(height, width, planes * channels)
    if array.shape[2] != page.samplesperpixel:
        raise ValueError(f"{array.shape[2]} of {page.samplesperpixel} channels")
    return array if array.dtype.kind == "f" else array.astype(np.uint16 if bits > 8 else np.uint8)


def _from_floats(samples, name):
    """Values from 0 to 1 as uint16; others have no one meaning."""
    low, high = float(samples.min()), float(samples.max())
    if not 0 <= low <= high <= 1:  # nor if there is nan
        raise ImageError(f"{name}: floating-point pixels from {low:.3g} to {high:.3g}, whose range is unknown; scale "
                         "them to 0 ... 1, or convert it to 8 or 16 bits per channel")
    return np.rint(samples.astype(np.float64) * 65535).astype(np.uint16)


def _check_inflated(page, start, length, expected):
    """Refuse a few bytes that become gigabytes, before they do: the decoder has no limit."""
    if length * 1032 <= expected + _LARGEST_SURPLUS or int(page.compression) not in _DEFLATE:
        return
    handle = page.parent.filehandle
    handle.seek(start)
    data, inflater, size = handle.read(length), zlib.decompressobj(), 0
    while data and not inflater.eof:
        size += len(inflater.decompress(data, 1 << 20))
        data = inflater.unconsumed_tail
        if size > expected + _LARGEST_SURPLUS:
            raise ValueError(f"a piece becomes more than {expected:,} bytes")


def _colours(page, samples, bits, expected):
    """``[H, W, 1, 3 or 4]`` with black at 0 (CMYK: no ink), uint8 with all 8 bits used, uint16 with all 16."""
    photometric, top = int(page.photometric), 2 ** bits - 1
    if photometric == _PALETTE:
        table = np.asarray(page.colormap)
        table = table if table.max(initial=0) < 256 else table >> 8
        return np.ascontiguousarray(table.astype(np.uint8).T[samples[..., 0]])
    values = samples[..., :expected]
    full = 255 if bits <= 8 else 65535
    if top != full:
        values = (values.astype(np.float64) * (full / top)).round().astype(values.dtype)
    return full - values if photometric == _WHITE0 else values


def _straight(values, alpha):
    """Colours that were multiplied by alpha, as they were before."""
    top = np.iinfo(values.dtype).max
    weight = np.where(alpha > 0, alpha, 1)[..., None]
    return np.clip(np.rint(values / weight), 0, top).astype(values.dtype)


def _upright(array, orientation):
    """The array as its orientation tag says; a wrong number says nothing."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return np.ascontiguousarray(array)


def _mode(page, bits):
    """As Pillow would call the pixels."""
    photometric = int(page.photometric)
    name = {_PALETTE: "P", _CMYK: "CMYK"}.get(photometric, "RGB")
    if photometric in (_WHITE0, _BLACK0):
        name = "1" if bits == 1 else "I;16" if bits > 8 and page.samplesperpixel == 1 else "L"
    return name + "A" if photometric in (_WHITE0, _BLACK0, _RGB) and page.samplesperpixel > _SAMPLES[photometric] \
        else name


def _count(file, page):
    """Pages, without those that are a smaller copy or a mask of another."""
    count = len(file.pages)
    if not 1 < count <= 100:
        return count
    return max(1, sum(not int(getattr(file.pages[i], "subfiletype", 0) or 0) & 0b101 for i in range(count)))
