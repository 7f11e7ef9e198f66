"""The last line of every result file: its version, and a checksum of all bytes before."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from phlogiston.engine import files
from phlogiston.errors import DataFileError, problem

VERSION = 2
# Text inside a file, which tells a sealed file that lost its last line from a file of version 1, which had none.
MARK = "phlogiston-sealed-file"
_LINE = re.compile(rb"(\nphlogiston file version (\d{4}) sha256 )([0-9a-f]{64})\n\Z")
_LONGEST = 128  # bytes of the last line, at most


def write(path: Path, content: bytes) -> Path:
    """Write a file and its last line, a checksum; HDF5 and zip archives may be followed by other bytes.

    Args:
        path: the file.
        content: bytes that hold ``MARK`` somewhere.

    Raises:
        DataFileError: it cannot be written.
    """
    if MARK.encode() not in content:
        raise AssertionError(f"{path}: the content of a sealed file holds its mark")
    head = f"\nphlogiston file version {VERSION:04d} sha256 ".encode()
    return files.write(path, content + head + _checksum(content, head) + b"\n")


def read(path: Path, writer: str) -> bytes:
    """The content of a file that ``write`` wrote, or of one of version 1, which has no checksum.

    Args:
        path: the file.
        writer: what writes such files, for the message.

    Raises:
        DataFileError: there is no such file, it is damaged or cut short, or a later version of the library wrote it.
    """
    stored = files.read(path, writer)
    line = _LINE.search(stored, max(0, len(stored) - _LONGEST))
    if line is None:
        if MARK.encode() in stored:
            raise _damaged(path, "a damaged file (it is cut short, or its last line is not the one written)", writer)
        return stored
    content = stored[: line.start()]
    if _checksum(content, line[1]) != line[3]:
        raise _damaged(path, "a damaged file (its contents do not have the checksum of its last line)", writer)
    if int(line[2]) > VERSION:
        fix = "pip install --upgrade phlogiston"
        found, expected = f"a file of version {int(line[2])}", f"version {VERSION} or earlier"
        raise DataFileError(problem(str(path), found=found, expected=expected, fix=fix))
    return content


def _damaged(path: Path, found: str, writer: str) -> DataFileError:
    return DataFileError(problem(str(path), found=found, expected=f"a file as {writer} wrote it"))


def _checksum(content: bytes, head: bytes) -> bytes:
    digest = hashlib.sha256(content)
    digest.update(head)
    return digest.hexdigest().encode()
