"""Files of plain values and tensors, with a SHA-256 of all of it.

Opening one runs no code, whoever made it, and takes no more memory than its size suggests.
"""

import hashlib
import pickle
import pickletools
import warnings
import zipfile
from collections import OrderedDict

import torch

from utils.errors import UserError, is_out_of_memory
from utils.files import atomic_write
from utils.reading import MIB, exists, open_regular, reason

FILE_LIMIT = 4096  # MiB
PICKLE_LIMIT = 64  # MiB of the part that holds the plain values; Adience's takes half of one
VALUES_LIMIT = 2_000_000  # plain values; 25 times Adience's people take some 70,000
NUMBERS = "float32 float64 bfloat16 float16 int64 int32 uint8 bool".split()
DTYPES = [getattr(torch, name) for name in NUMBERS]
DEPTH_LIMIT = 20
# The functions that such a file may call. torch's own list has some that take as much memory as they are told to.
CALLABLE = {"torch._utils _rebuild_tensor_v2", "collections OrderedDict"}
CALLABLE |= {f"torch {kind}Storage" for kind in "Float Double BFloat16 Half Long Int Byte Bool".split()}
PLAIN = (str, int, float, bool, type(None))


def save_plain(path, content):
    """Write a dict of plain values and tensors and its SHA-256, whole or not at all.

    Raises:
        UserError: the file cannot be written; an older file is then still there.
        ValueError: the content holds something that `load_plain` would not read.
    """
    tensors = []
    for value in leaves(content):
        if kind := odd_kind(value):
            raise ValueError(f"cannot save values of type {kind} to '{path}': only tensors and plain values")
        tensors += [value] if isinstance(value, torch.Tensor) else []
    with atomic_write(path, sum(tensor.nbytes for tensor in tensors) / MIB) as unfinished:
        try:
            torch.save({**content, "sha256": digest(content)}, unfinished)
        except RuntimeError as error:  # torch reports a failed write this way
            raise OSError(first_line(error)) from None


def odd_kind(value):
    """The type of a value that such a file does not hold, or None."""
    if isinstance(value, torch.Tensor):
        return None if value.dtype in DTYPES and value.layout == torch.strided else value.dtype
    # By exact type: a NumPy float is a float too, but its pickle is not plain.
    return None if type(value) in PLAIN else type(value).__name__


def leaves(value):
    """Yield every value within nested dicts (their keys too), lists and tuples, in order, and a mark for each of these.

    Raises:
        ValueError: there are more than VALUES_LIMIT or they are nested more than DEPTH_LIMIT deep, as in a list that
            holds itself.
    """
    waiting, count = [(value, 0)], 0
    while waiting:
        (value, depth), count = waiting.pop(), count + 1
        if count > VALUES_LIMIT:
            raise ValueError(f"it holds more than {VALUES_LIMIT:,} values")
        if depth > DEPTH_LIMIT:
            raise ValueError(f"its values are nested more than {DEPTH_LIMIT} deep")
        if type(value) in (dict, OrderedDict):
            waiting += [(leaf, depth + 1) for item in reversed(value.items()) for leaf in reversed(item)]
            yield f"dict of {len(value)}"
        elif type(value) in (list, tuple):
            waiting += [(item, depth + 1) for item in reversed(value)]
            yield f"list of {len(value)}"
        else:
            yield value


def digest(content):
    """A SHA-256 of all values, in order, their types and the tensors' shapes."""
    sha = hashlib.sha256()
    for value in leaves(content):
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu().contiguous()
            sha.update(f"\ntensor {value.dtype} {tuple(value.shape)} ".encode())
            sha.update(value.flatten().view(torch.uint8).numpy())
        else:
            sha.update(f"\n{type(value).__name__} {value!r}".encode("utf-8", "surrogatepass"))
    return sha.hexdigest()


def load_plain(path):
    """The content of a file of `save_plain`, with its tensors on the CPU.

    Raises:
        UserError: the file is missing or damaged, or holds more than plain values and tensors.
    """
    if not exists(path):
        raise UserError(f"no model file at '{path}'; main.py writes fold_0.pt to fold_4.pt into its run directory")
    with open_regular(path, FILE_LIMIT) as file:
        try:
            size = check_archive(file)
            with warnings.catch_warnings(action="ignore"):  # torch's advice on odd pickles is of no use here
                content = torch.load(file, map_location="cpu", weights_only=True)
            check_content(content, size)
            expected = content.pop("sha256", None)
            found = digest(content)
        except pickle.UnpicklingError:
            problem = "it is damaged or holds more than tensors and plain values"
            raise UserError(f"'{path}' is not a model file: {problem}") from None
        except Exception as error:  # a damaged file can fail in any way, deep within zip, pickle or torch
            if is_out_of_memory(error):
                raise
            raise UserError(f"'{path}' is truncated or not a model file: {first_line(error)}") from None
    if expected is None:
        raise UserError(f"'{path}' is not a model file of this version: it has no SHA-256")
    if found != expected:
        raise UserError(f"'{path}' is damaged: its content is not what its SHA-256 says")
    return content


def check_archive(file, also=frozenset()):
    """Check, before torch reads it, that a file is as large as it looks and calls nothing but CALLABLE and `also`.

    Returns:
        The size of the file, in bytes.

    Raises:
        ValueError, zipfile.BadZipFile: it is not a file of `save_plain`.
        pickle.UnpicklingError: it calls something else.
    """
    size = file.seek(0, 2)
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        # torch.save compresses nothing; a small file could grow to gigabytes otherwise.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed; torch.save compresses nothing")
        if sum(entry.file_size for entry in entries) > size:
            raise ValueError("its parts are larger than the file")
        for entry in (entry for entry in entries if entry.filename.endswith(".pkl")):
            if entry.file_size > PICKLE_LIMIT * MIB:
                raise ValueError(f"its plain values take more than {PICKLE_LIMIT} MiB")
            for operation, argument, _ in pickletools.genops(archive.read(entry)):
                named = operation.name in ("GLOBAL", "INST")
                if operation.name == "STACK_GLOBAL" or (named and argument not in CALLABLE | also):
                    raise pickle.UnpicklingError(f"it calls {argument}")
    file.seek(0)
    return size


def check_content(content, size):
    """Raises ValueError for what `save_plain` does not write, and for more than a file of `size` bytes can hold.

    A list may name one tensor or one long text a million times, and each would be read a million times.
    """
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}")
    numbers = texts = 0
    for value in leaves(content):
        if kind := odd_kind(value):
            raise ValueError(f"it holds values of type {kind}")
        if isinstance(value, torch.Tensor):
            numbers += value.nbytes
            if value.nbytes > value.untyped_storage().nbytes():  # one number, read as many
                raise ValueError(f"it holds an odd tensor, {value.dtype} {tuple(value.shape)}")
        elif isinstance(value, str):
            texts += len(value)
        elif type(value) is int and value.bit_length() > 64:
            raise ValueError("it holds a number of more than 64 bits")
        # Short texts, the keys of each epoch's row, are stored once and named by a few bytes.
        if numbers > size or texts > 16 * size + MIB:
            raise ValueError("its values are larger than the file")


def first_line(error):
    """An error as one line of at most 200 characters."""
    return " ".join(str(reason(error)).split())[:200]
