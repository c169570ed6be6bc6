"""Every face decoded and resized once, into one memory-mapped array.

A cache is a folder with `images.npy`, a uint8 array (N, 3, S, S), and `index.json`, which tells whether that file is
still what was written. The folder's name is a hash of the images' paths, lengths and times of change and of the size,
so a changed list, a replaced image or another size is another cache, built anew.
"""

import hashlib
import json
import os
import shutil
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from utils.errors import UserError
from utils.files import locked

# decode_face refuses such images itself, by name.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

FORMAT = 1
IMAGES_PER_TASK = 32


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
        if not is_sound(folder, shape):
            with locked(cache_dir / ".lock", when_busy):
                if not is_sound(folder, shape):  # another process may have built it meanwhile
                    build(folder, [image_dir / path for path in paths], shape, workers, progress)
    except OSError as error:
        size_mib = np.prod(shape, dtype=float) / 2**20
        raise UserError(f"cannot write the cache '{folder}' ({size_mib:,.0f} MiB): {error.strerror or error}") from None
    return np.load(folder / "images.npy", mmap_mode="r")


def describe_source(path):
    """What a cached image depends on: the file, its length in bytes and its time of change."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise UserError(f"cannot read the image '{path}': {error.strerror}") from None
    return [os.fspath(path), status.st_size, status.st_mtime_ns]


def is_sound(folder, shape):
    """Whether a finished cache exists and is, byte for byte, what was written."""
    images = folder / "images.npy"
    try:
        index = json.loads((folder / "index.json").read_text())
        status = images.stat()
        array = np.load(images, mmap_mode="r")
        same_size, same_time = status.st_size == index["bytes"], status.st_mtime_ns == index["mtime_ns"]
        crc32 = index["crc32"]
    except Exception:  # any other content may fail in any way
        return False
    if array.shape != shape or array.dtype != np.uint8 or not same_size:
        return False
    # An unchanged file needs no second look; a copied or overwritten one is compared in full.
    return same_time or checksum(images) == crc32


def checksum(path):
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 24):
            crc = zlib.crc32(block, crc)
    return crc


def build(folder, paths, shape, workers, progress):
    """Write the cache to a folder beside its place and move it there once it is complete."""
    for stale in folder.parent.glob(".*.unfinished"):  # of a process that was killed; this one holds the lock
        shutil.rmtree(stale, ignore_errors=True)
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    unfinished.mkdir()
    try:
        images = unfinished / "images.npy"
        array = np.lib.format.open_memmap(images, mode="w+", dtype=np.uint8, shape=shape)
        allocate(images)
        decode_all(array, paths, workers, progress)
        array.flush()
        del array
        status = images.stat()
        index = {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "crc32": checksum(images)}
        (unfinished / "index.json").write_text(json.dumps(index))
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


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
        UserError: the file is not an image, is damaged, or has more pixels than a face image can have.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise UserError(f"'{path}' is {image.width}x{image.height}, more pixels than a face image can have")
            # A JPEG decodes straight to 1/2, 1/4 or 1/8 of its size, which skips most of the work.
            image.draft("RGB", (size, size))
            square = centre_square(image.convert("RGB"), size)
            return np.asarray(square).transpose(2, 0, 1)
    except UnidentifiedImageError:
        raise UserError(f"'{path}' is no image") from None
    except (UserError, MemoryError):
        raise
    except Exception as error:  # a damaged file can fail in any way, deep within one of Pillow's decoders
        problem = "cannot be read" if getattr(error, "errno", None) else "is truncated or damaged"
        raise UserError(f"'{path}' {problem}: {error}") from None


def centre_square(image, size):
    """The centre of a PIL image, resized to size x size in one step."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
