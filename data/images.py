"""Image files, decoded upright and in RGB, and cut to a square."""

import contextlib
import functools
import io
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageChops, ImageCms, PngImagePlugin, UnidentifiedImageError
from tqdm import tqdm

from utils.errors import UserError
from utils.reading import MIB, open_regular

Image.MAX_IMAGE_PIXELS = None  # open_image has limits of its own
# A JPEG decodes at an eighth of its size, but a progressive one needs memory for all of it.
MOST_PIXELS, MOST_JPEG_PIXELS = 90_000_000, 400_000_000

# Others start foreign programs (EPS) or hold no photographs.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP")
IMAGE_LIMIT = 64  # MiB of a file
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = IMAGE_LIMIT * MIB  # text beside the pixels is no harm

SRGB = ImageCms.createProfile("sRGB")
# The transpose that turns a photograph upright, for each EXIF orientation.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ITEMS_PER_TASK = 32


def skip_ancillary_checksum(chunks, cid, data, check=PngImagePlugin.ChunkStream.crc):
    """Check the checksum of a PNG chunk unless it is ancillary, as text, time and profile are."""
    return chunks.crc_skip(cid, data) if cid[0] & 32 else check(chunks, cid, data)


PngImagePlugin.ChunkStream.crc = skip_ancillary_checksum


def decode_face(path, size, content=None, formats=IMAGE_FORMATS):
    """Decode an image file: resize its shorter side to `size` and cut out the centre.

    Args:
        path: the file.
        size: in pixels.
        content: of the file, where it is read already.
        formats: see `open_image`.

    Returns:
        uint8 array (3, size, size).

    Raises:
        UserError: see `open_image`.
    """
    with open_image(path, content, formats) as image:
        # A JPEG decodes straight to 1/2, 1/4 or 1/8 of its size, which skips most of the work.
        image.draft("RGB", (size, size))
        square = centre_square(to_rgb(image), size)
        return np.asarray(square).transpose(2, 0, 1)


@contextlib.contextmanager
def open_image(path, content=None, formats=IMAGE_FORMATS):
    """Open an image file, which is decoded within the block, where any error of Pillow's becomes a UserError.

    Args:
        path: the file.
        content: of the file, where it is read already.
        formats: of Pillow's, that are read.

    Yields:
        A PIL image, not decoded yet.

    Raises:
        UserError: the file is not an image, is damaged, or has more pixels than a face image can have.
    """
    try:
        opened = open_regular(path, IMAGE_LIMIT) if content is None else io.BytesIO(content)
        with opened as file, Image.open(file, formats=formats) as image:
            reduced = image.format in ("JPEG", "MPO") and "progressive" not in image.info
            most = MOST_JPEG_PIXELS if reduced else MOST_PIXELS
            if image.width * image.height > most:
                size = f"{image.width}x{image.height}, more than {most / 1e6:,.0f} million pixels"
                raise UserError(f"'{path}' is {size}; save it smaller")
            if problem := find_problem(image):
                raise UserError(f"'{path}' {problem}")
            yield image
    except UnidentifiedImageError:
        raise UserError(f"'{path}' is no image of the formats {', '.join(formats)}") from None
    except (UserError, MemoryError):
        raise
    except Exception as error:  # a damaged file can fail in any way, deep within one of Pillow's decoders
        problem = "cannot be read" if getattr(error, "errno", None) else "is truncated or damaged"
        raise UserError(f"'{path}' {problem}: {error}") from None


def find_problem(image):
    """The reason why an open image shows no photograph, as text, or None."""
    if image.format != "MPO" and getattr(image, "is_animated", False):  # an MPO holds a photograph and its preview
        return f"is an animation of {image.n_frames} pictures; save one of them"
    if image.has_transparency_data and image.convert("RGBA").getextrema()[3][1] == 0:
        return "is wholly transparent"
    return None


def to_rgb(image):
    """Turn a PIL image upright, as its EXIF orientation says, and convert it to RGB, in the colours of sRGB.

    16-bit greys are scaled; Pillow would cut them off at 255.
    """
    profile, turn = image.info.get("icc_profile"), TURNS.get(orientation(image))
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        image = ImageChops.invert(image)  # Pillow takes every CMYK JPEG for one of Adobe's, which are inverted
    image = image if turn is None else image.transpose(turn)
    if image.mode.startswith("I"):
        greys = np.asarray(image).astype(np.uint32)
        bits = 0 if image.mode == "I" and greys.max() < 256 else 8  # an image of 8 bits that was converted
        return Image.fromarray((greys >> bits).clip(0, 255).astype(np.uint8)).convert("RGB")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return to_srgb(image.convert("RGB") if image.mode != "CMYK" else image, profile)


def orientation(image):
    """The EXIF orientation of a PIL image, 1 to 8; 1, upright, where it has none that can be read."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # the other entries of a damaged EXIF do not matter
        return 1


def to_srgb(image, profile):
    """A PIL image in RGB, from the colours of an ICC profile (bytes, or None); a damaged profile does not matter."""
    if profile:
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError):
            if image.mode != "RGB" or not is_srgb(profile):
                source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
                image = ImageCms.profileToProfile(image, source, SRGB, outputMode="RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


@functools.lru_cache(16)
def is_srgb(profile):
    """Whether an ICC profile leaves the colours of sRGB as they are; the conversion takes time and rounds."""
    colours = Image.fromarray(np.stack(np.meshgrid(*[np.arange(0, 256, 15, np.uint8)] * 3), -1).reshape(18, -1, 3))
    converted = ImageCms.profileToProfile(colours, ImageCms.ImageCmsProfile(io.BytesIO(profile)), SRGB)
    return np.abs(np.asarray(colours, int) - np.asarray(converted)).max() <= 2


def centre_square(image, size):
    """The centre of a PIL image, resized to size x size in one step."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))


def write_image(path, image):
    """Write a PIL image as JPEG or PNG, whole or not at all. Pillow itself does not notice a full disk.

    Raises:
        OSError: it cannot be written.
    """
    content, path = io.BytesIO(), Path(path)
    image.save(content, "PNG" if path.suffix == ".png" else "JPEG", quality=90)
    try:
        path.write_bytes(content.getvalue())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None


def in_threads(function, items, description):
    """Call a function that decodes images in threads: Pillow works without holding the interpreter's lock.

    Args:
        function: it is called with each of the N items, and may raise UserError.
        items: a sequence.
        description: of the progress bar.

    Yields:
        For each item, in order, (its result, None), or (None, the message of its error).
    """

    def call(item):
        try:
            return function(item), None
        except UserError as error:
            return None, str(error)

    with ThreadPool() as pool:  # one thread per core
        done = pool.imap(call, items, chunksize=ITEMS_PER_TASK)
        yield from tqdm(done, description, len(items), unit="img", disable=None)
