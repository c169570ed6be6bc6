"""Every face decoded and resized once, into one memory-mapped array.

A cache is a folder with `images.npy`, a uint8 array (N, 3, S, S), and `index.json`, which holds its SHA-256; it is
compared at every opening. The folder's name is a hash of the images' paths, lengths, times and inodes and of the size,
so a changed list, a replaced image or another size is another cache, built anew.
"""

import contextlib
import hashlib
import json
import os
import shutil
import stat
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from utils.errors import UserError
from utils.files import locked
from utils.foreign import MIB, open_regular, read_json, reason

# decode_face refuses such images itself, by name.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

FORMAT = 2
CONTENT = {"images.npy", "index.json"}
IMAGES_PER_TASK = 32
# Others start foreign programs (EPS) or hold no photographs.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP")
IMAGE_LIMIT = 64  # MiB of a file


def open_cache(image_dir, paths, size, cache_dir, workers=None, progress=True):
    """Open the cache of a list of images; build it where it does not exist.

    Nothing of one cache is reused in another: where the list or any image changed, all images are decoded again.

    Args:
        image_dir: the folder of the images.
        paths: the N images, relative to `image_dir`.
        size: side in pixels; the shorter side of an image is resized to it and the centre is cut out.
        cache_dir: the folder of all caches; it is created where it does not exist.
        workers: the number of decoding threads; by default one per core.
        progress: show a progress bar.

    Returns:
        A read-only, memory-mapped uint8 array (N, 3, size, size).

    Raises:
        UserError: an image cannot be decoded, or the cache cannot be written.
    """
    image_dir, cache_dir = Path(image_dir).resolve(), Path(cache_dir)
    sources = [describe_source(image_dir / path) for path in paths]
    name = hashlib.sha256(json.dumps([FORMAT, size, sources]).encode()).hexdigest()[:16]
    folder = cache_dir / f"faces_{size}px_{name}"
    shape = (len(paths), 3, size, size)

    def when_busy():
        if progress:
            tqdm.write(f"cache: waiting for another process that builds in {cache_dir}")

    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        images = open_sound(folder, shape)
        if images is None:
            with locked(cache_dir / ".lock", when_busy):
                images = open_sound(folder, shape)  # another process may have built it meanwhile
                if images is None:
                    build(folder, [image_dir / path for path in paths], shape, workers, progress)
                    images = np.load(folder / "images.npy", mmap_mode="r")
    except OSError as error:
        size = f"{np.prod(shape, dtype=float) / MIB:,.0f} MiB"
        raise UserError(f"cannot write the cache '{folder}' ({size}): {reason(error)}") from None
    return images


def describe_source(path):
    """What a cached image depends on: the file, its length, its times and its place on the disk.

    A copy may keep the length and the time of change of what it replaces (`cp -p`, `rsync -t`); the time of change of
    its inode it cannot keep.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise UserError(f"cannot read the image '{path}': {reason(error)}") from None
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"'{path}' is no image: it is not a regular file")
    return [os.fspath(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def open_sound(folder, shape):
    """The array of a finished cache that is, byte for byte, what was written; None where there is no such cache."""
    path = folder / "images.npy"
    try:
        expected = read_json(folder / "index.json")["sha256"]
        with open_regular(path, limit_mib=2**40) as file:
            images = np.load(path, mmap_mode="r")
            if images.shape != shape or images.dtype != np.uint8 or checksum(file) != expected:
                return None
    except Exception:  # any other content may fail in any way
        return None
    return images


def checksum(file):
    return hashlib.file_digest(file, "sha256").hexdigest()


def build(folder, paths, shape, workers, progress):
    """Write the cache to a folder beside its place and move it there once it is complete."""
    for stale in folder.parent.glob(".faces_*px_*.unfinished"):  # of a process that was killed; this one has the lock
        remove_own(stale)
    needed, free = np.prod(shape, dtype=float), shutil.disk_usage(folder.parent).free
    if needed > free:
        raise OSError(f"only {free / MIB:,.0f} MiB are free there")
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    unfinished.mkdir()
    try:
        images = unfinished / "images.npy"
        array = np.lib.format.open_memmap(images, mode="w+", dtype=np.uint8, shape=shape)
        allocate(images)
        decode_all(array, paths, workers, progress)
        array.flush()
        del array
        with open(images, "rb") as file:
            (unfinished / "index.json").write_text(json.dumps({"sha256": checksum(file)}))
        remove_own(folder)  # a damaged one
        os.rename(unfinished, folder)
    finally:
        remove_own(unfinished)


def remove_own(folder):
    """Remove a cache, but nothing that no cache holds. Raises OSError where there is something else."""
    if not folder.is_dir():
        return
    if strangers := {path.name for path in folder.iterdir()} - CONTENT:
        raise OSError(f"'{folder}' holds '{min(strangers)}', which is no part of a cache; move it away")
    shutil.rmtree(folder)


def allocate(path):
    """Reserve a file's blocks, so that a full disk is an error now and not a crash while the map is written."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)


def decode_all(array, paths, workers, progress):
    """Decode the images into uint8 (N, 3, S, S). Raises UserError that names the first image that failed."""
    failures = {}

    def decode(start):
        task = range(start, min(start + IMAGES_PER_TASK, len(paths)))
        for position in task:
            try:
                array[position] = decode_face(paths[position], array.shape[-1])
            except UserError as error:
                failures[position] = str(error)
        return len(task)

    # Pillow decodes and resizes without holding the interpreter's lock, so threads use every core.
    bar = tqdm(total=len(paths), desc="decoding faces", unit="img", disable=None if progress else True)
    with bar, ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        try:
            for done in pool.map(decode, range(0, len(paths), IMAGES_PER_TASK)):
                bar.update(done)
        except BaseException:  # an interruption: drop what is queued
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failures:
        more = f" (and {len(failures) - 1:,} more images)" if len(failures) > 1 else ""
        raise UserError(failures[min(failures)] + more)


def decode_face(path, size):
    """Decode an image file: resize its shorter side to `size` and cut out the centre.

    Returns:
        uint8 array (3, size, size).

    Raises:
        UserError: see `open_image`.
    """
    with open_image(path) as image:
        # A JPEG decodes straight to 1/2, 1/4 or 1/8 of its size, which skips most of the work.
        image.draft("RGB", (size, size))
        square = centre_square(to_rgb(ImageOps.exif_transpose(image)), size)
        return np.asarray(square).transpose(2, 0, 1)


@contextlib.contextmanager
def open_image(path):
    """Open an image file, which is decoded within the block, where any error of Pillow's becomes a UserError.

    Yields:
        A PIL image, not decoded yet.

    Raises:
        UserError: the file is not an image, is damaged, or has more pixels than a face image can have.
    """
    try:
        with open_regular(path, IMAGE_LIMIT) as file, Image.open(file, formats=IMAGE_FORMATS) as image:
            if image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise UserError(f"'{path}' is {image.width}x{image.height}, more pixels than a face image can have")
            yield image
    except UnidentifiedImageError:
        raise UserError(f"'{path}' is no image of the formats {', '.join(IMAGE_FORMATS)}") from None
    except (UserError, MemoryError):
        raise
    except Exception as error:  # a damaged file can fail in any way, deep within one of Pillow's decoders
        problem = "cannot be read" if getattr(error, "errno", None) else "is truncated or damaged"
        raise UserError(f"'{path}' {problem}: {error}") from None


def to_rgb(image):
    """A PIL image in RGB: 16-bit greys are scaled, where Pillow would cut them off at 255."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def centre_square(image, size):
    """The centre of a PIL image, resized to size x size in one step."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
