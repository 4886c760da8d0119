"""A file that one training owns: locked, and whole at every moment."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO, TypeVar

from filelock import BaseFileLock, FileLock, Timeout

from sklpos.nets.hints import shown
from sklpos.training.refusals import named_refusals

_T = TypeVar("_T")
# Paths may be longer than a readable sentence.
_SHOWN = 115
_PERMISSIONS = 0o777
# The mask of the process takes bits away.
_DEFAULT = 0o666
_WRITABLE_BY_ANYBODY = 0o222
# Seconds; an owner may be about to remove its lock.
_PATIENCE = 0.1
# What file systems answer that do not sync folders.
_NO_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP)


class OwnedFile:
    """File that one training replaces again and again, and that others may read.

    `write` writes another file beside it, named ``<path>.<process>.part``, and renames
    it, so the path leads to the old content or to the new, never to a part. Whoever
    owns the file holds ``<path>.lock``, an empty file that `release` removes; the
    system ends the lock of a process that is killed. A symbolic link stays, and the
    file that it leads to is replaced. A hard link keeps the old content. A file that is
    replaced passes on its permissions, but not its owner.

    Parameters
    ----------
    path : str or os.PathLike
        File in a folder that exists. Relative paths are resolved at once.

    Attributes
    ----------
    path : str
        Absolute, without symbolic links.

    Raises
    ------
    ValueError
        If `path` cannot be the name of a file.

    Examples
    --------
    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = OwnedFile(os.path.join(folder, "numbers"))
    ...     file.acquire()
    ...     file.write(lambda stream: stream.write(b"1 2 3"))
    ...     during = sorted(os.listdir(folder))
    ...     file.release()
    ...     during, os.listdir(folder)
    (['numbers', 'numbers.lock'], ['numbers'])
    """

    def __init__(self, path: str | os.PathLike):
        self.path = _resolved(path)
        self._shown = show_path(path)
        self._lock: BaseFileLock | None = None
        self._locked_inode: int | None = None

    def acquire(self) -> None:
        """Lock the file, and remove what killed processes left beside it.

        Raises
        ------
        ValueError
            If its folder does not exist, or the path leads to something that is no
            file or is read-only, or another process or thread owns it.
        OSError
            If the system refuses to create files in the folder, or to lock them.
        """
        with named_refusals(self._shown, "written"):
            self._check_folder()
            self._replaced_mode()
            self._take_lock()
        self._remove_parts()

    def release(self) -> None:
        """Unlock the file; without effect if it is not locked."""
        lock = self._lock
        if lock is None:
            return
        # What the system does not unlock now, it unlocks when the process ends.
        with suppress(OSError):
            try:
                # While the lock is held: who opened this file sees that it is gone.
                if self._is_mine():
                    os.remove(lock.lock_file)
            finally:
                lock.release(force=True)

    def read(self, load: Callable[[BinaryIO], _T]) -> _T | None:
        """Read the content, if there is a file.

        Parameters
        ----------
        load : callable
            ``load(stream)`` reads the content from a binary stream.

        Returns
        -------
        object
            What `load` returns, None if there is no file.

        Raises
        ------
        OSError
            If the system refuses to read. It has the number of the system's error.
        """
        with named_refusals(self._shown, "read"):
            try:
                stream = open(self.path, "rb")  # noqa: SIM115
            except FileNotFoundError:
                return None
            with stream:
                return load(stream)

    def write(self, save: Callable[[BinaryIO], object]) -> None:
        """Replace the content; the old one stays whatever goes wrong.

        Parameters
        ----------
        save : callable
            ``save(stream)`` writes the content to a binary stream.

        Raises
        ------
        OSError
            If the system refuses to write, for instance as the disk is full. It has the
            number of the system's error.
        ValueError
            If the lock was removed, and another process or thread owns the file now.
        """
        if not self._is_mine():
            self.release()
            self.acquire()
        part = f"{self.path}.{os.getpid()}.part"
        try:
            with named_refusals(self._shown, "written"):
                self._write_new(part, save)
                os.replace(part, self.path)
                _sync_folder(os.path.dirname(self.path))
        finally:
            # After it was renamed there is none.
            with suppress(OSError):
                os.remove(part)

    def _is_mine(self) -> bool:
        """Whether the lock is held, and others would see it."""
        # A forked process does not hold the locks of its parent.
        if self._lock is None or not self._lock.is_locked:
            return False
        try:
            return os.stat(self._lock.lock_file).st_ino == self._locked_inode
        except OSError:
            return False

    def _take_lock(self) -> None:
        lock = FileLock(f"{self.path}.lock", thread_local=False)
        name = os.path.basename(lock.lock_file)
        # Not even its content is safe from some versions of filelock.
        if os.path.isfile(lock.lock_file) and os.path.getsize(lock.lock_file):
            raise ValueError(
                f"{self._shown} is in use: {shown(name)} beside it is not empty, so "
                "another host or program made it; delete it if nobody needs it."
            )
        # Kept before it is taken, as Ctrl-C may come in between. A new one, since a
        # forked process cannot take the one of its parent.
        self._lock = lock
        try:
            lock.acquire(_PATIENCE, poll_interval=_PATIENCE / 10)
        except Timeout:
            # There is none if the folder takes no files.
            os.stat(lock.lock_file)
            raise ValueError(
                f"{self._shown} is in use: another process or thread trains with it; "
                "wait until that ends, or give each fit its own path."
            ) from None
        self._locked_inode = os.stat(lock.lock_file).st_ino

    def _check_folder(self) -> None:
        try:
            is_folder = stat.S_ISDIR(os.stat(os.path.dirname(self.path)).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            is_folder = False
        if not is_folder:
            raise ValueError(
                f"{self._shown} is in a folder that does not exist; create it, or pass "
                "another path."
            )

    def _replaced_mode(self) -> int | None:
        """Permissions of the file that is there, None if there is none."""
        try:
            mode = os.stat(self.path).st_mode
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise ValueError(f"{self._shown} is {kind}; pass the name of a file.")
        # Renaming would replace it all the same, and an administrator may write to it.
        if not mode & _WRITABLE_BY_ANYBODY or not os.access(self.path, os.W_OK):
            raise ValueError(
                f"{self._shown} is read-only; make it writable, or pass another path."
            )
        return mode & _PERMISSIONS

    def _write_new(self, part: str, save: Callable[[BinaryIO], object]) -> None:
        old = self._replaced_mode()
        mode = _DEFAULT if old is None else old

        def opener(name: str, flags: int) -> int:
            return os.open(name, flags, mode)

        # "x" neither follows a link that somebody put there nor writes to their file.
        with open(part, "xb", opener=opener) as stream:
            if old is not None:
                # Some file systems have no permissions.
                with suppress(OSError):
                    os.chmod(part, old)
            save(stream)
            stream.flush()
            # Otherwise a power cut may leave an empty file under the new name.
            os.fsync(stream.fileno())

    def _remove_parts(self) -> None:
        """Remove unfinished files: only who holds the lock writes one."""
        folder, name = os.path.split(self.path)
        # Earlier versions left the number of the process out.
        unfinished = re.compile(re.escape(name) + r"(\.\d+)?\.part")
        with suppress(OSError):
            for found in filter(unfinished.fullmatch, os.listdir(folder)):
                with suppress(OSError):
                    os.remove(os.path.join(folder, found))


def show_path(path: str | os.PathLike) -> str:
    """The path with its parameter, for an error message.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    str

    Examples
    --------
    >>> show_path("fit.ckpt")
    "path='fit.ckpt'"
    """
    return f"path={shown(os.fsdecode(path), _SHOWN)}"


def _resolved(path: str | os.PathLike) -> str:
    """The real path, which stays the same if the working folder or a link changes."""
    with suppress(TypeError, ValueError):
        text = os.fsdecode(path)
        # No system has such names; the second would be taken for that of a file.
        if "\0" not in text and os.path.basename(text):
            real = os.path.realpath(text)
            os.fsencode(real)
            return real
    raise ValueError(
        f"path={shown(path, _SHOWN)} must be the name of a file, as str or os.PathLike."
    )


def _sync_folder(folder: str) -> None:
    """Make the new name survive a power cut, where the system can do that."""
    # Windows opens no folders, and nobody opens one that he may not list.
    try:
        opened = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(opened)
