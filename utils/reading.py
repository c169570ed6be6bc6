"""Reads untrusted files: regular files only, up to a size limit.

A named pipe would wait for ever, a device never ends, and a text of 200,000 brackets exhausts the parser.
"""

import codecs
import io
import json
import os
import stat
from pathlib import Path

from utils.errors import UserError

MIB = 2**20
JSON_LIMIT, TEXT_LIMIT, ANY_SIZE = 16, 256, 2**40  # MiB
NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # without it, a named pipe would wait for somebody at its other end
KINDS = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a named pipe", stat.S_ISSOCK: "a socket"}


def open_regular(path, limit_mib):
    """Open a regular file for reading bytes.

    Args:
        path: the file; a link to one is followed.
        limit_mib: the largest size, in MiB.

    Returns:
        An open binary file.

    Raises:
        UserError: the file is missing, is not regular, is too large or cannot be opened. The message names it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | NO_WAIT)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read '{path}': {reason(error)}") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        kind = next((name for is_kind, name in KINDS.items() if is_kind(status.st_mode)), "a device")
        raise UserError(f"'{path}' is {kind}; expected a regular file")
    if status.st_size > limit_mib * MIB:
        os.close(descriptor)
        raise UserError(f"'{path}' has {status.st_size / MIB:,.0f} MiB; at most {limit_mib:,} are read")
    return os.fdopen(descriptor, "rb")


def read_bytes(path, limit_mib):
    """The content of a regular file. Raises UserError, see `open_regular`."""
    content = bytearray()
    with open_regular(path, limit_mib) as file:
        try:
            while len(content) <= limit_mib * MIB and (chunk := file.read(MIB)):
                content += chunk  # files of /proc have more in them than their size says
        except OSError as error:
            raise UserError(f"cannot read '{path}': {reason(error)}") from None
    if len(content) > limit_mib * MIB:
        raise UserError(f"'{path}' has more than the {limit_mib:,} MiB that are read")
    return bytes(content)


def read_text(path, limit_mib=TEXT_LIMIT):
    """The content of a regular file of UTF-8 text, or of UTF-16 with its mark, as Windows writes. Raises UserError."""
    content = read_bytes(path, limit_mib)
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"
    try:
        return io.TextIOWrapper(io.BytesIO(content), encoding=encoding).read()
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' cannot be read as {encoding.upper()} text: {error}") from None


def read_json(path, limit_mib=JSON_LIMIT, kind=dict):
    """The dict, or the list, in a regular file of JSON. Raises UserError."""
    text = read_text(path, limit_mib)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"'{path}' is damaged: {reason(error)}") from None
    if not isinstance(content, kind):
        raise UserError(f"'{path}' is damaged: it holds a {type(content).__name__}, not a {kind.__name__}")
    return content


def starts_with(path, *texts):
    """Whether a regular file begins with one of these texts. Raises UserError."""
    with open_regular(path, ANY_SIZE) as file:
        return file.read(max(map(len, texts)) * 4).startswith(tuple(text.encode() for text in texts))


def exists(path):
    """Whether there is anything at a path; False for a name that no file can have."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def reason(error):
    """The text of an error, without the path that an OSError repeats."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
