"""A tree of tensors and plain values in one file: sealed, limited in size, no code.

The file is what ``torch.save`` writes, with a comment at its end: the versions that
wrote it, and a checksum of all bytes. Nothing in it is read before the checksum holds.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, BinaryIO
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from torch import Tensor

from sklpos.version import __version__

_CHUNK = 2**20
# Deeper than any honest state, and far from Python's own limit.
_DEEPEST = 50
# Generators of numpy have states of up to 128 bits.
_LARGEST = 2**1000
_PLAIN = (bool, int, float, str, type(None))


def write_archive(tree: dict, file: BinaryIO) -> None:
    """Write a tree to a file that is open for writing.

    Parameters
    ----------
    tree : dict
        Of numbers, strings and tensors, see `sklpos.training.state.to_storable`.
    file : binary file
        Empty, and able to seek.
    """
    hashed = _Hashing(file)
    torch.save(tree, hashed)
    seal = _versions()
    seal["checksum"] = _checksum(hashed.digest, seal)
    comment = json.dumps(seal).encode()
    # A zip file ends with the length of its comment, which is 0 so far.
    file.seek(-2, 2)
    file.write(len(comment).to_bytes(2, "little") + comment)


def read_archive(file: BinaryIO) -> dict[str, Any]:
    """Read what `write_archive` wrote, without running code of the file.

    Parameters
    ----------
    file : binary file

    Returns
    -------
    dict
        With tensors on the CPU.

    Raises
    ------
    ValueError
        If the file is damaged or something else, unfolds to more than its size, or was
        written by other versions of this package or of torch.
    """
    size = file.seek(0, 2)
    _check_seal(file, size)
    try:
        # The machine that reads may lack the device of the one that wrote.
        tree = torch.load(file, map_location="cpu", weights_only=True)
    # torch passes on any error of its parsers.
    except Exception as error:
        raise ValueError("it is damaged, as torch cannot read it") from error
    if not isinstance(tree, dict):
        raise ValueError("it was not written by TrainingCheckpoint")
    _check_tree(tree, size)
    return tree


class _Hashing:
    """A file for ``torch.save`` that hashes what it writes."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.digest = hashlib.blake2b(digest_size=16)

    def write(self, data) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def _versions() -> dict[str, str]:
    # The build, such as "+cpu", may differ between the machines of one training.
    return {"sklpos": __version__, "torch": torch.__version__.split("+")[0]}


def _checksum(digest, seal: dict) -> str:
    """Checksum of the bytes that `digest` has seen, and of the rest of the seal."""
    digest = digest.copy()
    named = {name: value for name, value in seal.items() if name != "checksum"}
    digest.update(json.dumps(named, sort_keys=True).encode())
    return digest.hexdigest()


def _check_seal(file: BinaryIO, size: int) -> None:
    try:
        with ZipFile(file) as archive:
            comment, members = archive.comment, archive.infolist()
        seal = json.loads(comment)
    except (BadZipFile, ValueError, NotImplementedError, RecursionError) as e:
        raise ValueError("it was not written by TrainingCheckpoint") from e
    if not isinstance(seal, dict):
        raise ValueError("it was not written by TrainingCheckpoint")
    digest = _digest_of_start(file, size - len(comment) - 2)
    digest.update(bytes(2))
    if seal.get("checksum") != _checksum(digest, seal):
        raise ValueError("it is damaged, as its checksum does not hold")
    if (versions := _versions()) != {name: seal.get(name) for name in versions}:
        written = f"sklpos {seal.get('sklpos')} and torch {seal.get('torch')}"
        now = f"sklpos {versions['sklpos']} and torch {versions['torch']}"
        raise ValueError(f"it was written by {written}, but these are {now}")
    # torch stores without compression, so nothing unfolds to more than the file.
    unfolded = sum(member.file_size for member in members)
    if unfolded > size or any(m.compress_type != ZIP_STORED for m in members):
        raise ValueError(f"it would unfold from {size} to {unfolded} bytes")
    file.seek(0)


def _digest_of_start(file: BinaryIO, n_bytes: int):
    digest = hashlib.blake2b(digest_size=16)
    file.seek(0)
    while n_bytes > 0 and (chunk := file.read(min(_CHUNK, n_bytes))):
        digest.update(chunk)
        n_bytes -= len(chunk)
    return digest


def _check_tree(tree: Any, size: int) -> None:
    """Refuse what `write_archive` does not write, or what unfolds in memory."""
    todo, n_seen = [(tree, 0)], 0
    while todo:
        value, depth = todo.pop()
        n_seen += 1
        # Each value takes a byte or more, unless containers are shared many times.
        if n_seen > size or depth > _DEEPEST:
            raise ValueError("it is nested without end")
        if type(value) is dict and all(type(key) in (str, int) for key in value):
            todo += [(item, depth + 1) for item in value.values()]
        elif type(value) in (list, tuple):
            todo += [(item, depth + 1) for item in value]
        elif type(value) is int and abs(value) > _LARGEST:
            raise ValueError("it holds an integer that no float can hold")
        elif not (type(value) in _PLAIN or _is_compact(value)):
            raise ValueError(f"it holds a {type(value).__name__}")


def _is_compact(value: Any) -> bool:
    """Whether a value is a plain tensor, each number of which is in memory once."""
    return (
        type(value) is Tensor
        and value.device.type == "cpu"
        and value.layout is torch.strided
        and value.nbytes <= value.untyped_storage().nbytes()
    )
