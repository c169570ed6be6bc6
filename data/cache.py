"""Every face decoded and resized once, into memory-mapped arrays of up to 8,192 faces, the shards.

A shard is a folder with two files:

    images.npy   uint8 (n, 3, S, S)
    index.npz    SHA-256 of images.npy, its size, times and inode at that moment; SHA-256, times and inode of the
                 photographs; the signatures of duplicates.py; the last 32 bytes are the SHA-256 of the others

The folder's name is a hash of the photographs' paths below the image directory, lengths and modification times and of
the size, so that a changed list, a replaced image or another size is another shard. Where only the inode or the other
times of a photograph differ, as after a copy of the folder, its content is compared. images.npy is read again when its
size, times or inode are not those of the index. Where a checksum differs, the shard is built anew.
"""

import contextlib
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

from data.duplicates import BLOCK, Pictures, both_signatures, find_pairs
from data.images import IMAGE_LIMIT, decode_face, in_threads
from utils.errors import UserError, is_out_of_memory
from utils.files import atomic_write, locked
from utils.reading import ANY_SIZE, MIB, open_regular, read_bytes, reason

FORMAT = 10  # raised when decoding, signatures or the search for pairs change
SHARD = 8192  # faces
IMAGES, INDEX = "images.npy", "index.npz"
FILES = (IMAGES, INDEX, ".index.*.unfinished.npz")  # the last ones are of processes that were killed
INDEX_LIMIT = 1024  # MiB
SETTLED = 0.1  # seconds after which a change of a file also changes its times


class Shards:
    """Arrays of shape (up to SHARD, ...), one behind the other, of which rows are read like those of one array."""

    def __init__(self, arrays):
        self.arrays = arrays
        self.shape = (sum(map(len, arrays)), *arrays[0].shape[1:])
        self.dtype, self.nbytes = arrays[0].dtype, sum(array.nbytes for array in arrays)

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        """A row, or a copy of several: a slice, or B integers."""
        rows = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows)
        if rows.ndim == 0:
            return self.arrays[rows // SHARD][rows % SHARD]
        found, shards = np.empty((len(rows), *self.shape[1:]), self.dtype), rows // SHARD
        for shard in np.unique(shards):
            found[shards == shard] = self.arrays[shard][rows[shards == shard] % SHARD]
        return found


@dataclass(frozen=True, eq=False)
class Cache:
    """The decoded images of a data set.

    Attributes:
        images: uint8 (N, 3, S, S), memory-mapped and read-only: an array, or Shards.
        sha256: the checksum of their files.
        pictures: the Pictures that they show.
        damaged: {row: the problem} of photographs that cannot be read; their images are black.
    """

    images: np.ndarray | Shards
    sha256: str
    pictures: Pictures
    damaged: dict

    def readable(self, faces):
        """The Faces whose photographs are not damaged."""
        return faces.where(~faces.table.index.isin(list(self.damaged)))


@dataclass(frozen=True)
class Sources:
    """The photographs of a shard.

    Attributes:
        image_dir: their folder.
        paths: relative to it.
        described: for each path its size, times and inode.
    """

    image_dir: Path
    paths: list
    described: list

    @property
    def files(self):
        return [os.path.join(self.image_dir, path) for path in self.paths]

    def name(self, size):
        kept = [[path, *described[:2]] for path, described in zip(self.paths, self.described, strict=True)]
        return f"faces_{size}px_{hashlib.sha256(json.dumps([FORMAT, size, kept]).encode()).hexdigest()[:16]}"


class Busy(Exception):
    """Another process builds this shard."""


def open_cache(image_dir, paths, size, cache_dir, skip_damaged=0):
    """Open the cache of a list of images; build the shards that do not exist.

    Several processes build different shards at the same time. After an interruption, finished shards are kept.

    Args:
        image_dir: the folder of the images.
        paths: the N images, relative to `image_dir`.
        size: side in pixels; the shorter side of an image is resized to it and the centre is cut out.
        cache_dir: the folder of all caches; it is created where it does not exist.
        skip_damaged: the number of images that may be unreadable.

    Returns:
        A Cache.

    Raises:
        UserError: more than `skip_damaged` images cannot be decoded, too many images are the same, or the cache
            cannot be written.
    """
    image_dir, cache_dir, paths = Path(image_dir).resolve(), Path(cache_dir), list(paths)
    shards = []
    for start in range(0, len(paths), SHARD):
        own = paths[start : start + SHARD]
        shards.append(Sources(image_dir, own, [describe_source(os.path.join(image_dir, path)) for path in own]))
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        opened = open_shards(shards, size, cache_dir)
        images, checksums, signatures, problems = zip(*opened, strict=True)
        damaged = {row: problem for row, problem in enumerate(np.concatenate(problems).tolist()) if problem}
        refuse_damaged(list(damaged.values()), skip_damaged)
        signatures = np.concatenate(signatures, axis=1)
        sha256 = checksums[0] if len(checksums) == 1 else hashlib.sha256("".join(checksums).encode()).hexdigest()
        pairs = open_pairs(cache_dir, sha256, signatures)
    except OSError as error:
        size = f"{shard_bytes(paths, size) / MIB:,.0f} MiB"
        raise UserError(f"cannot write the cache in '{cache_dir}' ({size}): {reason(error)}") from None
    return Cache(images[0] if len(images) == 1 else Shards(images), sha256, Pictures(signatures, pairs), damaged)


def open_shards(shards, size, cache_dir):
    """Open the shards, a list of Sources, build the missing ones, and wait for processes that build some of them.

    Returns a list of what `open_sound` returns. Raises OSError or UserError.
    """
    opened = [open_sound(cache_dir / shard.name(size), shard, size) for shard in shards]
    missing = [number for number, found in enumerate(opened) if found is None]
    new = [shards[number] for number in missing if not (cache_dir / shards[number].name(size)).exists()]
    free = shutil.disk_usage(cache_dir).free
    if sum(shard_bytes(shard.paths, size) for shard in new) > free:
        raise OSError(f"only {free / MIB:,.0f} MiB are free there")

    def be_busy():
        raise Busy

    def say_busy():
        tqdm.write(f"cache: waiting for another process that builds in {cache_dir}")

    for when_busy in (be_busy, say_busy):
        for number in (number for number in missing if opened[number] is None):
            folder, title = cache_dir / shards[number].name(size), f"decoding faces {number + 1}/{len(shards)}"
            title = title if len(shards) > 1 else "decoding faces"
            with contextlib.suppress(Busy), locked(cache_dir / f".{folder.name}.lock", when_busy):
                opened[number] = open_sound(folder, shards[number], size, may_read=True)
                if opened[number] is None:
                    build(folder, shards[number], size, title)
                    opened[number] = open_sound(folder, shards[number], size, may_read=True)
                if opened[number] is None:
                    raise OSError("its files changed while they were written")
    return opened


def describe_source(path):
    """Size, times and inode of an image file. Raises UserError."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise UserError(f"cannot read the image '{path}': {reason(error)}") from None
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"'{path}' is no image: it is not a regular file")
    return describe_status(status)


def describe_status(status):
    """Size, times and inode of a file, as texts; a change of its content changes at least one of them.

    A copy may keep the size and the modification time of the file that it replaces (`cp -p`, `rsync -t`), but not the
    time at which its inode changed.
    """
    return [str(number) for number in (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)]


def open_sound(folder, sources, size, may_read=False):
    """Open a finished shard.

    Args:
        folder: the shard.
        sources: its Sources.
        size: side of its images.
        may_read: read images.npy and photographs where their status is not that of the index, and record the status
            if the content is the same. Other processes must be locked out.

    Returns:
        (images, SHA-256 of their file, signatures, problems of the photographs or ""); None if there is none, if its
        files are not, byte for byte, what was written, or if a photograph changed or can be read again.
    """
    try:
        index, changed = read_index(folder / INDEX), {}
        files, described = sources.files, np.array(sources.described)
        if index["status"].tolist() != describe_status(os.stat(folder / IMAGES)):
            changed |= check_images(folder) if may_read else {"sha256": ""}
        moved = (index["sources"] != described).any(axis=1)
        if moved.any():
            rows = np.flatnonzero(moved)
            same = may_read and [digest_of(files[row]) for row in rows] == index["contents"][rows].tolist()
            changed |= {"sources": described} if same else {"sha256": ""}
        if (index | changed)["sha256"] != index["sha256"]:
            return None
        images = np.load(folder / IMAGES, mmap_mode="r")
        if (images.shape, images.dtype) != ((len(files), 3, size, size), np.uint8):
            return None
        if any(can_read(files[k], size) for k in np.flatnonzero(index["problems"])):
            return None
        if changed:
            write_index(folder / INDEX, index | changed)
    except Exception as error:  # any other content may fail in any way
        if is_out_of_memory(error):
            raise
        return None
    return images, str(index["sha256"]), index["signatures"], index["problems"]


def digest_of(file):
    return hashlib.sha256(read_bytes(file, IMAGE_LIMIT)).hexdigest()


def open_pairs(cache_dir, sha256, signatures):
    """The pairs of the same picture in a whole data set, int64 (P, 2), from a file that is written where it is missing.

    The checksum of the images names the file; signatures: uint8 (2, N, 96). Raises OSError or UserError.
    """
    path = cache_dir / f"pairs_{hashlib.sha256(f'{FORMAT} {sha256}'.encode()).hexdigest()[:16]}.npz"
    with locked(cache_dir / f".{path.stem}.lock"):
        try:
            return read_index(path)["pairs"]
        except Exception as error:  # as above
            if is_out_of_memory(error):
                raise
        pairs = find_pairs(signatures)
        write_index(path, {"pairs": pairs})
        return pairs


def read_index(path):
    """{name: array} of an .npz file. Raises UserError where it is not what was written."""
    content = read_bytes(path, INDEX_LIMIT)
    if hashlib.sha256(content[:-32]).digest() != content[-32:]:
        raise UserError(f"'{path}' is damaged")
    with np.load(io.BytesIO(content[:-32])) as arrays:
        return dict(arrays)


def write_index(path, arrays):
    """Write {name: array} to an .npz file. Raises UserError."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    with atomic_write(path) as unfinished:
        unfinished.write_bytes(content.getvalue() + hashlib.sha256(content.getvalue()).digest())


def check_images(folder):
    """Read images.npy: {"sha256": its checksum, "status": its status before that}. Raises UserError or OSError."""
    time.sleep(SETTLED)  # a change from now on changes the status
    status = describe_status(os.stat(folder / IMAGES))  # on Windows, fstat has other times
    with open_regular(folder / IMAGES, ANY_SIZE) as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "status": status}


def build(folder, sources, size, title):
    """Write a shard to another folder and rename that once it is complete. Raises OSError or UserError."""
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    remove_own(unfinished)  # left by a killed process; this one has the lock
    unfinished.mkdir()
    try:
        shape = (len(sources.paths), 3, size, size)
        images = np.lib.format.open_memmap(unfinished / IMAGES, mode="w+", dtype=np.uint8, shape=shape)
        allocate(unfinished / IMAGES)
        arrays = decode_all(images, sources.files, title)
        images.flush()
        del images
        status = describe_status(os.stat(unfinished / IMAGES))
        write_index(unfinished / INDEX, {"sources": sources.described, "status": status, **arrays})
        remove_own(folder)  # a damaged one
        os.rename(unfinished, folder)
    finally:
        with contextlib.suppress(OSError):  # Windows keeps what is still mapped; the next build removes it
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


def decode_all(images, files, title):
    """Decode the n files of a shard into images.npy, mapped as uint8 (n, 3, S, S); returns {name: array} of the index.

    This thread hashes each block of images while others decode the next one.
    """

    def decode(position):
        content = b""
        try:
            content = read_bytes(files[position], IMAGE_LIMIT)
            images[position] = decode_face(files[position], images.shape[-1], content)
            return hashlib.sha256(content).hexdigest(), ""
        except UserError as error:
            return hashlib.sha256(content).hexdigest(), str(error)

    with open(images.filename, "rb") as file:
        sha256 = hashlib.sha256(file.read(images.offset))  # the header
    results, signatures = [], []
    for result, _ in in_threads(decode, range(len(files)), title):
        results.append(result)
        if len(results) % BLOCK == 0 or len(results) == len(files):
            block = images[(len(results) - 1) // BLOCK * BLOCK : len(results)]
            sha256.update(block)
            signatures.append(both_signatures(block))
    contents, problems = zip(*results, strict=True)
    signatures = np.concatenate(signatures, axis=1)
    return {"contents": contents, "problems": problems, "signatures": signatures, "sha256": sha256.hexdigest()}


def can_read(file, size):
    try:
        return decode_face(file, size) is not None
    except UserError:
        return False


def refuse_damaged(problems, allowed):
    """Raise UserError where more photographs than that cannot be read."""
    if len(problems) > allowed:
        if not allowed:
            more = f" (and {len(problems) - 1:,} more images)" if len(problems) > 1 else ""
            raise UserError(f"{problems[0]}{more}; --skip-damaged {len(problems)} leaves out as many")
        first = "; ".join(problems[:3])
        raise UserError(f"--skip-damaged {allowed}: {len(problems):,} images cannot be read, first {first}")


def shard_bytes(paths, size):
    return len(paths) * 3.0 * size**2
