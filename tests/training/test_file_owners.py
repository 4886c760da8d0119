"""Who owns a file that a training writes: one thread of one process."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading

import pytest

from sklpos.training.files import OwnedFile

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX only")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fit.ckpt"


@pytest.fixture
def owned(path):
    """Own the file, with some content."""
    file = OwnedFile(path)
    file.acquire()
    file.write(lambda stream: stream.write(b"old"))
    yield file
    file.release()


def names(folder) -> list[str]:
    return sorted(os.listdir(folder))


def refused(path) -> bool:
    file = OwnedFile(path)
    try:
        file.acquire()
    except ValueError as error:
        return "in use: another process or thread" in str(error)
    file.release()
    return False


def test_there_is_one_owner(owned, path, tmp_path):
    found = []
    other = threading.Thread(target=lambda: found.append(refused(path)))
    other.start()
    other.join()
    assert found == [True]
    (tmp_path / "link").symlink_to(path)
    assert all(map(refused, [path, os.fsencode(path), tmp_path / "link"]))
    assert not refused(tmp_path / "other")
    owned.write(lambda stream: stream.write(b"new"))
    other = threading.Thread(target=owned.release)
    other.start()
    other.join()
    assert names(tmp_path) == ["fit.ckpt", "link"]
    assert not refused(path)
    owned.release()
    assert path.read_bytes() == b"new"


@posix
def test_a_forked_process_owns_nothing(owned, path, tmp_path):
    """Neither the lock, nor, by living on, its release."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()

    def child():
        results.put(refused(path))
        try:
            owned.write(lambda stream: stream.write(b"new"))
        except ValueError as error:
            results.put(str(error))
        owned.release()
        signal.pause()

    process = context.Process(target=child)
    process.start()
    assert results.get()
    assert "in use" in results.get()
    assert refused(path)
    owned.release()
    assert not refused(path)
    process.kill()
    process.join()
    assert path.read_bytes() == b"old"


DYING = """
import os, signal, sys
from sklpos.training.files import OwnedFile

file = OwnedFile(sys.argv[1])
file.acquire()

def save(stream):
    stream.write(b"ne")
    stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)

file.write(save)
"""


@posix
def test_what_killed_processes_left_is_removed(path, tmp_path):
    others = ["fit.ckpt.part.txt", "fit.ckpt.v2.7.part", "fit.ckptx.7.part", "x.part"]
    for name in (*others, "fit.ckpt.part"):
        (tmp_path / name).touch()
    path.write_bytes(b"old")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", DYING, path], env=env, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(set(names(tmp_path)) - set(others)) == 3
    file = OwnedFile(path)
    file.acquire()
    assert names(tmp_path) == sorted([*others, "fit.ckpt", "fit.ckpt.lock"])
    file.release()
    assert names(tmp_path) == sorted([*others, "fit.ckpt"])
    assert path.read_bytes() == b"old"


def test_a_lock_that_somebody_removes_is_taken_again(owned, path, tmp_path):
    os.remove(tmp_path / "fit.ckpt.lock")
    owned.write(lambda stream: stream.write(b"new"))
    assert refused(path)
    os.remove(tmp_path / "fit.ckpt.lock")
    other = OwnedFile(path)
    other.acquire()
    other.write(lambda stream: stream.write(b"other"))
    with pytest.raises(ValueError, match="in use"):
        owned.write(lambda stream: stream.write(b"new"))
    owned.release()
    assert refused(path)
    other.release()
    assert path.read_bytes() == b"other"
    assert names(tmp_path) == ["fit.ckpt"]


def test_a_foreign_file_in_the_place_of_the_lock_stays(path, tmp_path):
    (tmp_path / "fit.ckpt.lock").write_bytes(b"mine")
    file = OwnedFile(path)
    with pytest.raises(ValueError, match=r"in use: 'fit.ckpt.lock' beside it"):
        file.acquire()
    file.release()
    assert (tmp_path / "fit.ckpt.lock").read_bytes() == b"mine"


@posix
def test_a_link_in_the_place_of_an_own_file_is_not_followed(path, tmp_path):
    """Whoever may write to the folder could choose what is overwritten."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"kept")
    (tmp_path / f"fit.ckpt.{os.getpid()}.part").symlink_to(victim)
    file = OwnedFile(path)
    file.acquire()
    (tmp_path / f"fit.ckpt.{os.getpid()}.part").symlink_to(victim)
    with pytest.raises(FileExistsError):
        file.write(lambda stream: stream.write(b"new"))
    assert victim.read_bytes() == b"kept"
    file.release()
    (tmp_path / "fit.ckpt.lock").symlink_to(victim)
    with pytest.raises(ValueError, match="in use"):
        file.acquire()
    victim.write_bytes(b"")
    with pytest.raises(OSError, match=r"cannot be written.*'fit\.ckpt\.lock'"):
        file.acquire()
    assert names(tmp_path) == ["fit.ckpt.lock", "victim"]
