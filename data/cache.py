"""Every face decoded and resized once, to one memory-mapped array.

A cache is a folder that holds `images.npy`, a uint8 array (N, 3, S, S), and
`index.json`, which records what each row was made from. Its name is a hash of
exactly that, so a changed list, a replaced image or another size is another
cache; rows whose source did not change are copied from a cache that has them.
"""

import contextlib
import fcntl
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

from data import DataError

# decode_face refuses such images itself, by name.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

FORMAT = 1
ROWS_PER_TASK = 32


def open_cache(image_dir, paths, size, cache_dir, workers=None, progress=True):
    """The faces as a read-only memory-mapped uint8 array (N, 3, size, size), built if need be.

    image_dir, paths: the N images, as `image_dir/path`.
    size: side in pixels; the shorter side is resized to it and the middle is cut out.
    cache_dir: where the caches live. workers: decoding threads, by default one per core.

    Raises DataError when an image cannot be decoded or the cache cannot be written.
    """
    image_dir, cache_dir = Path(image_dir).resolve(), Path(cache_dir)
    sources = [source_key(image_dir, path) for path in paths]
    name = hashlib.sha256(json.dumps([FORMAT, size, sources]).encode()).hexdigest()[:16]
    folder = cache_dir / f"faces_{size}px_{name}"
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        if not is_sound(folder, len(paths), size):
            with only_builder(cache_dir, progress):
                # Another process may have built it while this one waited.
                if not is_sound(folder, len(paths), size):
                    build(folder, image_dir, paths, sources, size, workers, progress)
    except OSError as error:
        need = len(paths) * 3 * size * size / 2**20
        raise DataError(f"cannot write the cache '{folder}' ({need:,.0f} MiB): {error.strerror or error}") from None
    return np.load(folder / "images.npy", mmap_mode="r")


def source_key(image_dir, path):
    """What a cached row depends on: the file, its length in bytes and its time of change."""
    try:
        status = os.stat(image_dir / path)
    except OSError as error:
        raise DataError(f"cannot read the image '{image_dir / path}': {error.strerror}") from None
    return [os.fspath(image_dir / path), status.st_size, status.st_mtime_ns]


@contextlib.contextmanager
def only_builder(cache_dir, progress):
    """Let one process at a time build; the lock goes with its holder, however that ends."""
    with open(cache_dir / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if progress:
                tqdm.write(f"cache: another process is building in {cache_dir}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def is_sound(folder, count, size):
    """Whether a finished cache is there and is, byte for byte, what was written."""
    images, index_file = folder / "images.npy", folder / "index.json"
    try:
        index = json.loads(index_file.read_text())
        status = images.stat()
        array = np.load(images, mmap_mode="r")
        same_size = status.st_size == index["bytes"]
        same_time, checked = status.st_mtime_ns == index["mtime_ns"], index["crc32"]
    except Exception:  # whatever is there instead of a cache
        return False
    if array.shape != (count, 3, size, size) or array.dtype != np.uint8 or not same_size:
        return False
    # An untouched file needs no second look; a copied or overwritten one is compared in full.
    return same_time or checksum(images) == checked


def checksum(path):
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 24):
            crc = zlib.crc32(block, crc)
    return crc


def build(folder, image_dir, paths, sources, size, workers, progress):
    """Write the cache beside its place and move it there when it is whole."""
    for stale in folder.parent.glob(".*.unfinished"):  # of a builder that died; this one holds the lock
        shutil.rmtree(stale, ignore_errors=True)
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    unfinished.mkdir()
    try:
        shape = (len(paths), 3, size, size)
        array = np.lib.format.open_memmap(unfinished / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
        take_blocks(unfinished / "images.npy")
        known = rows_of_other_caches(folder, sources, size)
        fill(array, image_dir, paths, known, workers, progress)
        array.flush()
        del array
        write_index(unfinished, sources)
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def take_blocks(path):
    """Make a full disk an error now instead of a crash while the map is written; not every system can."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)


def write_index(folder, sources):
    images = folder / "images.npy"
    status = images.stat()
    index = {
        "format": FORMAT,
        "bytes": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "crc32": checksum(images),
        "sources": sources,
    }
    (folder / "index.json").write_text(json.dumps(index))


def rows_of_other_caches(folder, sources, size):
    """{position: decoded row} for the sources that a sound cache of the same size already holds."""
    wanted = {tuple(source): position for position, source in enumerate(sources)}
    found = {}
    for other in folder.parent.glob(f"faces_{size}px_*"):
        try:
            index = json.loads((other / "index.json").read_text())
            theirs = index["sources"] if index["format"] == FORMAT else []
            shared = {wanted[tuple(s)]: row for row, s in enumerate(theirs) if tuple(s) in wanted}
        except Exception:  # a damaged one is of no use
            continue
        if len(shared) > len(found) and other != folder and is_sound(other, len(theirs), size):
            images = np.load(other / "images.npy", mmap_mode="r")
            found = {position: images[row] for position, row in shared.items()}
    return found


def fill(array, image_dir, paths, known, workers, progress):
    """Decode every row that is not already known. Raises DataError naming the images that failed."""
    for position, row in known.items():
        array[position] = row
    missing = [position for position in range(len(paths)) if position not in known]
    tasks = [missing[start : start + ROWS_PER_TASK] for start in range(0, len(missing), ROWS_PER_TASK)]
    failures = []

    def decode(task):
        for position in task:
            try:
                array[position] = decode_face(image_dir / paths[position], array.shape[-1])
            except DataError as error:
                failures.append((position, str(error)))
        return len(task)

    # Pillow decodes and resizes without holding the interpreter's lock, so threads use every core.
    bar = tqdm(total=len(missing), desc="decoding faces", unit="img", disable=None if progress else True)
    with bar, ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        try:
            for done in pool.map(decode, tasks):
                bar.update(done)
        except BaseException:  # an interruption: leave what is queued undone
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failures:
        failures.sort()
        more = f" (and {len(failures) - 1:,} more images)" if len(failures) > 1 else ""
        raise DataError(failures[0][1] + more)


def decode_face(path, size):
    """One image file as uint8 (3, size, size): shorter side resized, middle cut out. Raises DataError."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise DataError(f"'{path}' is {image.width}x{image.height}, more pixels than a face image can have")
            # A JPEG decodes straight to 1/2, 1/4 or 1/8 of its size, which skips most of the work.
            image.draft("RGB", (size, size))
            square = centre_square(image.convert("RGB"), size)
            return np.asarray(square).transpose(2, 0, 1)
    except UnidentifiedImageError:
        raise DataError(f"'{path}' is no image") from None
    except DataError:
        raise
    except Exception as error:  # a damaged file can fail in any way, deep within one of Pillow's decoders
        raise DataError(f"'{path}' is truncated or damaged: {error}") from None


def centre_square(image, size):
    """The middle square of a PIL image, resized to size x size in one step."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
