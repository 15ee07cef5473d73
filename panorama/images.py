"""The one way to open a picture: training, prediction, review and thumbnails all come through `open_rgb`.

Pillow and numpy only, so that pages that show pictures need not import torch.
"""

import io
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from panorama.decoding import DecodingError, decode_elsewhere
from panorama.errors import PanoramaError

# MPO (two JPEGs in one file, from many phones) opens through the JPEG reader and must not be named here.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "AVIF")
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".avif", ".mpo"})
MAX_PIXELS = 150_000_000  # a 15,000 x 10,000 panorama; beyond it a picture is refused before it is decoded
_MAX_BYTES = 512 * 1024 * 1024
# Beyond these a picture is decoded in a process of its own (`_may_run_away`).
_ORDINARY_BYTES = 16 * 2**20
_ORDINARY_PIXELS = 32_000_000
_ORDINARY_JPEG_PIXELS = 64_000_000
_ORDINARY_SCANS = 64  # a progressive JPEG of an editor or a phone has 6 to 14
_SCAN = b"\xff\xda"
_ON_ITS_SIDE = (5, 6, 7, 8)  # of EXIF's orientations

ImageFile.LOAD_TRUNCATED_IMAGES = False
# Decoders warn of broken metadata that the pixels do not need. Said once for the process: `catch_warnings` is not safe in
# the threads that scan a folder. With this limit the bomb warning is only given for what is refused anyway.
warnings.filterwarnings("ignore", module=r"PIL\.")
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


class PictureError(PanoramaError):
    """A picture that cannot be used; the message names it and says why."""


def open_rgb(source: Path | bytes, name: str | None = None, *, at_least: int | None = None) -> Image.Image:
    """The picture upright, as 8-bit RGB on white where it was transparent, first frame of an animation.

    source: a file or its bytes; `name` is what messages call it (the path by default). `at_least`: JPEGs may be decoded
    at a reduced size whose sides are both at least this many pixels, several times faster.
    16-bit greyscale is scaled from its full range, or from 12 bits where no value goes beyond them.
    What may take gigabytes or many seconds is decoded in a process of its own, with limits (`decoding`).
    Raises PictureError: not a picture of a format we read, damaged, too large, or samples without a defined range.
    """
    return open_with_size(source, name, at_least=at_least)[0]


def open_with_size(
    source: Path | bytes, name: str | None = None, *, at_least: int | None = None
) -> tuple[Image.Image, tuple[int, int]]:
    """As `open_rgb`, and the width and height in pixels of the whole picture, upright, whatever size it was decoded at."""
    with _told(source, name):
        if _size(source) <= _ORDINARY_BYTES:
            with _opened(source) as (image, stream):
                if not _may_run_away(image, stream):
                    return _decoded(image, at_least)
        try:
            return decode_elsewhere(source, at_least)
        except DecodingError as error:
            raise PictureError(str(error)) from error


def open_here(
    source: Path | bytes, name: str | None = None, *, at_least: int | None = None
) -> tuple[Image.Image, tuple[int, int]]:
    """As `open_with_size`, in this process whatever it takes: for a process that has limits of its own."""
    with _told(source, name):
        _size(source)
        with _opened(source) as (image, _):
            return _decoded(image, at_least)


@contextmanager
def _told(source: Path | bytes, name: str | None) -> Iterator[None]:
    """Whatever goes wrong inside becomes a PictureError that begins with the name."""
    name = name if name is not None else (str(source) if isinstance(source, Path) else "the picture")
    try:
        yield
    except PictureError as error:
        raise PictureError(f"{name}: {error}") from error
    except FileNotFoundError:
        raise PictureError(f"{name}: the file is not there.") from None
    except PermissionError:
        raise PictureError(f"{name}: this user may not read the file; change its permissions.") from None
    except UnidentifiedImageError:
        raise PictureError(
            f"{name}: not a picture that can be read; expected one of {', '.join(FORMATS)}. Save it as JPEG or PNG."
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PictureError(f"{name}: more than {MAX_PIXELS:,} pixels; make it smaller.") from None
    except MemoryError:
        raise PictureError(f"{name}: not enough memory to decode it; make it smaller.") from None
    # Decoders report damage with many types (OSError, SyntaxError, ValueError, struct.error, zlib.error, EOFError, ...).
    except Exception as error:
        reason = str(error).strip().rstrip(".") or type(error).__name__
        raise PictureError(f"{name}: damaged or cut off ({reason}); open it in an image editor and save it again.") from error


def _size(source: Path | bytes) -> int:
    """How many bytes there are. Raises PictureError where these are none or too many, or it is a folder."""
    if isinstance(source, bytes):
        size = len(source)
    else:
        status = source.stat()
        if stat.S_ISDIR(status.st_mode):
            raise PictureError("a folder, not a picture.")
        size = status.st_size
    if size == 0:
        raise PictureError("the file is empty (0 bytes); copy it again.")
    if size > _MAX_BYTES:
        raise PictureError(f"{size / 1e6:,.0f} MB; pictures up to {_MAX_BYTES // 2**20} MB are read. Make it smaller.")
    return size


@contextmanager
def _opened(source: Path | bytes) -> Iterator[tuple[Image.Image, BinaryIO]]:
    """The picture with its header read, and where it is read from."""
    stream: BinaryIO = source.open("rb") if isinstance(source, Path) else io.BytesIO(source)
    with stream, Image.open(stream, formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise PictureError(
                f"{image.width:,} x {image.height:,} pixels; at most {MAX_PIXELS:,} in all are read. Make it smaller."
            )
        yield image, stream


def _may_run_away(image: Image.Image, stream: BinaryIO) -> bool:
    """Whether decoding may take about a gigabyte or more, or many seconds, though there are few bytes.

    Memory goes with the pixels: up to 12 bytes each for a JPEG on its way to RGB, 24 for what may be transparent. A JPEG is gone
    through once for each of its scans. (More than _ORDINARY_BYTES are not even looked at: some readers walk along the chunks of
    a file in Python, a quarter of a second for each million bytes.)
    """
    jpeg = image.format in ("JPEG", "MPO")
    if image.width * image.height > (_ORDINARY_JPEG_PIXELS if jpeg else _ORDINARY_PIXELS):
        return True
    if not jpeg:
        return False
    place = stream.seek(0, 1)
    stream.seek(0)
    n_scans = stream.read().count(_SCAN)
    stream.seek(place)
    return n_scans > _ORDINARY_SCANS


def _decoded(image: Image.Image, at_least: int | None) -> tuple[Image.Image, tuple[int, int]]:
    whole = image.size
    if at_least is not None and image.format == "JPEG":
        image.draft("RGB" if image.mode == "YCbCr" else image.mode, (at_least, at_least))
    is_whole = image.size == whole
    image.load()
    if is_whole:  # a TIFF may have been turned as it was loaded
        whole = image.size
    upright, is_on_its_side = _upright(image)
    return _to_rgb(upright, twelve_bits_possible=image.format == "TIFF"), (whole[::-1] if is_on_its_side else whole)


def _upright(image: Image.Image) -> tuple[Image.Image, bool]:
    """The picture turned as its EXIF says, and whether its width became its height."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        if orientation is None:  # the most, which `exif_transpose` would copy
            return image, False
        return ImageOps.exif_transpose(image), orientation in _ON_ITS_SIDE
    except Exception:  # EXIF that cannot be parsed, or written back: the pixels are sound, and nothing says they are turned
        return image, False


def _to_rgb(image: Image.Image, *, twelve_bits_possible: bool) -> Image.Image:
    if image.mode in ("I", "F"):
        raise PictureError("32-bit samples have no defined range from black to white; save it as 8-bit.")
    if image.mode.startswith("I;16"):
        return _from_16_bit(image, twelve_bits_possible)
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bit(image: Image.Image, twelve_bits_possible: bool) -> Image.Image:
    samples = np.asarray(image).astype(np.float32)
    # Cameras and scanners store 12 bits in a 16-bit TIFF; taken as 16 bits such a picture would be black to the eye.
    full = 4095.0 if twelve_bits_possible and samples.max(initial=0) <= 4095 else 65535.0
    grey = np.round(samples * (255.0 / full)).astype(np.uint8)
    transparent = image.info.get("transparency")  # the one level that a greyscale PNG declares to be
    if isinstance(transparent, int):
        grey[samples == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def thumbnail_jpeg(source: Path | bytes, longest_side: int, name: str | None = None, *, quality: int = 82) -> bytes:
    """A small JPEG of the whole picture, at most `longest_side` pixels a side. Raises PictureError."""
    image = open_rgb(source, name, at_least=longest_side)
    image.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def difference_hash(image: Image.Image) -> int:
    """64 bits, one for each pair of neighbours in a 9 x 8 grey miniature: is the left one brighter? (Krawetz's dHash.)"""
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    bits = (grey[:, :-1] > grey[:, 1:]).ravel()
    return int(np.packbits(bits).view(">u8")[0])
