"""Every file of the library is written here: made aside, flushed to disk, renamed over the one before."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from phlogiston.errors import DataFileError, problem

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORGOTTEN = 3600.0  # seconds after which an unfinished file has no writer any more


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in one sentence why a file or a folder cannot be written, and what to do.

    Raises:
        DataFileError: a folder or another thing lies there, nothing may be written there, or the disk is full.
    """
    try:
        yield
    except OSError as error:
        found = "a folder" if path.is_dir() else f"no way to write there ({error.strerror or error})"
        expected = "the path of a file in a folder of yours"
        if error.errno in _FULL:
            expected = "enough room for the file (the one before, if any, is untouched)"
        raise DataFileError(problem(str(path), found=found, expected=expected)) from error


def write(path: Path, content: bytes) -> Path:
    """Write one file such that at every moment the file before or the new one lies there, whole.

    The content goes to a hidden file in the same folder, is flushed to disk, and takes the place of ``path`` by one
    rename, which file systems carry out entirely or not at all; then the folder is flushed too. Processes that write
    the same path at a time do not meet: the last rename stays. Folders are made, links are followed, the permissions
    of the file before are kept. Devices and pipes are written directly.

    Args:
        path: the file.
        content: all its bytes.

    Returns:
        the path.

    Raises:
        DataFileError: it cannot be written; the file before is untouched.
    """
    with writing(path):
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        before = target.stat() if target.exists() else None
        if before is not None and not stat.S_ISREG(before.st_mode):
            target.write_bytes(content)  # a device or a pipe; a folder refuses here
            return path
        if before is not None and not os.access(target, os.W_OK):  # the rename alone would not ask
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))
        _forget_unfinished(target)
        _replace(target, content, None if before is None else stat.S_IMODE(before.st_mode))
    return path


def _replace(target: Path, content: bytes, mode: int | None) -> None:
    unfinished = target.with_name(f"{_prefix(target)}{secrets.token_hex(8)}.part")
    try:
        with unfinished.open("xb") as file:
            if mode is not None:
                os.chmod(unfinished, mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, target)
    except BaseException:  # Ctrl-C too
        unfinished.unlink(missing_ok=True)
        raise
    _flush_folder(target.parent)


def _prefix(target: Path) -> str:
    return f".{target.name[:100]}."


def _flush_folder(folder: Path) -> None:
    """Make the rename survive a loss of power, where the system can flush a folder (Windows cannot)."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _forget_unfinished(target: Path) -> None:
    """Remove what writers of this file left behind when they were killed more than an hour ago."""
    prefix, oldest = _prefix(target), time.time() - _FORGOTTEN
    with contextlib.suppress(OSError):  # another process may remove it first; it costs room only
        for name in os.listdir(target.parent):
            left = target.parent / name
            if name.startswith(prefix) and name.endswith(".part") and left.stat().st_mtime < oldest:
                left.unlink()


def read(path: Path, writer: str) -> bytes:
    """All bytes of a file.

    Args:
        path: the file.
        writer: what writes such files, for the message.

    Raises:
        DataFileError: there is none, it is a folder, or it may not be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
        found = "no such file" if missing else "a folder" if path.is_dir() else f"no way to read it ({error.strerror})"
        raise DataFileError(problem(str(path), found=found, expected=f"one written by {writer}")) from error
