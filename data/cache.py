"""Every face decoded and resized once, into one memory-mapped array.

A cache is a folder with two files:

    images.npy   uint8 (N, 3, S, S)
    index.npz    SHA-256 of images.npy, its size, times and inode at that moment, and the signatures and pairs of
                 duplicates.py; the last 32 bytes are the SHA-256 of the others

The folder's name is a hash of the images' paths, lengths, times and inodes and of the size, so that a changed list, a
replaced image or another size is another cache. images.npy is read again when its size, times or inode are not those
of the index. Where a checksum differs, the cache is built anew.
"""

import errno
import fnmatch
import functools
import hashlib
import io
import json
import os
import shutil
import stat
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.duplicates import Pictures
from data.images import decode_face, in_threads
from utils.errors import UserError, is_out_of_memory
from utils.files import atomic_write, locked
from utils.reading import ANY_SIZE, MIB, open_regular, read_bytes, reason

FORMAT = 7  # raised when decoding, signatures or the search for pairs change
IMAGES, INDEX = "images.npy", "index.npz"
FILES = (IMAGES, INDEX, ".index.*.unfinished.npz")  # the last ones are of processes that were killed
INDEX_LIMIT = 1024  # MiB
SETTLED = 0.1  # seconds after which a change of a file also changes its times


@dataclass(frozen=True, eq=False)
class Cache:
    """The decoded images of a data set.

    Attributes:
        images: uint8 (N, 3, S, S), memory-mapped and read-only.
        sha256: the checksum of their file.
        pictures: the Pictures that they show.
    """

    images: np.ndarray
    sha256: str
    pictures: Pictures


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
        A Cache.

    Raises:
        UserError: an image cannot be decoded, so many images are the same that these cannot be photographs, or the
            cache cannot be written.
    """
    image_dir, cache_dir = Path(image_dir).resolve(), Path(cache_dir)
    files = [os.path.join(image_dir, path) for path in paths]
    name = hashlib.sha256(json.dumps([FORMAT, size, [describe_source(file) for file in files]]).encode())
    folder = cache_dir / f"faces_{size}px_{name.hexdigest()[:16]}"
    shape = (len(files), 3, size, size)

    def when_busy():
        if progress:
            tqdm.write(f"cache: waiting for another process that builds in {cache_dir}")

    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        cache = open_sound(folder, shape)
        if cache is None:
            with locked(cache_dir / ".lock", when_busy):
                cache = open_sound(folder, shape, reread=True)
                if cache is None:
                    build(folder, files, shape, workers, progress)
                    cache = open_sound(folder, shape, reread=True)
        if cache is None:
            raise OSError("its files changed while they were written")
    except OSError as error:
        size = f"{np.prod(shape, dtype=float) / MIB:,.0f} MiB"
        raise UserError(f"cannot write the cache '{folder}' ({size}): {reason(error)}") from None
    return cache


def describe_source(path):
    """Path and status of an image file, on which its decoded pixels depend. Raises UserError."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise UserError(f"cannot read the image '{path}': {reason(error)}") from None
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"'{path}' is no image: it is not a regular file")
    return [path, *describe_status(status)]


def describe_status(status):
    """Size, times and inode of a file, as texts; a change of its content changes at least one of them.

    A copy may keep the size and the modification time of the file that it replaces (`cp -p`, `rsync -t`), but not the
    time at which its inode changed.
    """
    return [str(number) for number in (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)]


def open_sound(folder, shape, reread=False):
    """Open a finished cache.

    Args:
        folder: the cache.
        shape: (N, 3, S, S).
        reread: read images.npy where its status is not that of the index, and record the status if the checksum is
            the same. Other processes must be locked out.

    Returns:
        A Cache; None if there is none, or if its files are not, byte for byte, what was written.
    """
    try:
        index = read_index(folder)
        if index["status"].tolist() != describe_status(os.stat(folder / IMAGES)):
            checked = check_images(folder) if reread else {}
            if checked.get("sha256") != index["sha256"]:
                return None
            write_index(folder, index | checked)
        images = np.load(folder / IMAGES, mmap_mode="r")
        if (images.shape, images.dtype) != (shape, np.uint8):
            return None
    except Exception as error:  # any other content may fail in any way
        if is_out_of_memory(error):
            raise
        return None
    return Cache(images, str(index["sha256"]), Pictures(index["signatures"], index["pairs"]))


def read_index(folder):
    """{name: array} of a cache. Raises UserError where the file is not what was written."""
    content = read_bytes(folder / INDEX, INDEX_LIMIT)
    if hashlib.sha256(content[:-32]).digest() != content[-32:]:
        raise UserError(f"'{folder / INDEX}' is damaged")
    with np.load(io.BytesIO(content[:-32])) as arrays:
        return dict(arrays)


def write_index(folder, arrays):
    """Write {name: array}. Raises UserError."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    with atomic_write(folder / INDEX) as unfinished:
        unfinished.write_bytes(content.getvalue() + hashlib.sha256(content.getvalue()).digest())


def check_images(folder):
    """Read images.npy: {"sha256": its checksum, "status": its status before that}. Raises UserError or OSError."""
    time.sleep(SETTLED)  # a change from now on changes the status
    with open_regular(folder / IMAGES, ANY_SIZE) as file:
        status = describe_status(os.fstat(file.fileno()))
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "status": status}


def build(folder, paths, shape, workers, progress):
    """Write the cache to another folder and rename that once it is complete. Raises OSError or UserError."""
    for stale in folder.parent.glob(".faces_*px_*.unfinished"):  # left by a killed process; this one has the lock
        remove_own(stale)
    needed, free = np.prod(shape, dtype=float), shutil.disk_usage(folder.parent).free
    if needed > free:
        raise OSError(f"only {free / MIB:,.0f} MiB are free there")
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    unfinished.mkdir()
    try:
        images = np.lib.format.open_memmap(unfinished / IMAGES, mode="w+", dtype=np.uint8, shape=shape)
        allocate(unfinished / IMAGES)
        decode_all(images, paths, workers, progress)
        images.flush()
        pictures = vars(Pictures.of(images))
        del images
        write_index(unfinished, {**check_images(unfinished), **pictures})
        remove_own(folder)  # a damaged one
        os.rename(unfinished, folder)
    finally:
        remove_own(unfinished)


def remove_own(folder):
    """Remove a cache, but nothing that no cache holds. Raises OSError where there is something else."""
    if not folder.is_dir():
        return
    names = sorted(path.name for path in folder.iterdir())
    if foreign := [name for name in names if not any(map(functools.partial(fnmatch.fnmatch, name), FILES))]:
        raise OSError(f"'{folder}' holds '{foreign[0]}', which is no part of a cache; move it away")
    shutil.rmtree(folder)


def allocate(path):
    """Reserve a file's blocks, so that a full disk is an error now and not a crash while the map is written."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):  # a file system without it
                    raise


def decode_all(images, paths, workers, progress):
    """Decode the images into uint8 (N, 3, S, S). Raises UserError that names the first image that failed."""

    def decode(position):
        images[position] = decode_face(paths[position], images.shape[-1])

    _, errors = in_threads(decode, range(len(paths)), "decoding faces", workers, progress)
    if errors:
        more = f" (and {len(errors) - 1:,} more images)" if len(errors) > 1 else ""
        raise UserError(errors[0] + more)
