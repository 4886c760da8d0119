"""A file that one training owns: others wait, and no failure leaves a part of it."""

import errno
import os
import stat
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from sklpos.training.files import OwnedFile

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX only")
as_user = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="nothing is read-only for root"
)


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


def assert_says(error, path) -> None:
    """One sentence that names the path."""
    text = str(error.value)
    assert str(path) in text
    assert "path=" in text
    assert len(text) <= 300
    assert text.endswith(".")
    assert text.count(". ") == 0


# Paths


def fifo(folder):
    os.mkfifo(folder / "fifo")
    return folder / "fifo"


def loop(folder):
    (folder / "loop").symlink_to(folder / "loop")
    return folder / "loop"


def read_only(folder):
    (folder / "kept").write_bytes(b"old")
    (folder / "kept").chmod(0o444)
    return folder / "kept"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", "name of a file"),
        ("folder/", "name of a file"),
        ("a\0b", "name of a file"),
        (5, "name of a file"),
        (None, "name of a file"),
        (["a"], "name of a file"),
        (".", "is a folder"),
        (b"..", "is a folder"),
        ("nowhere/a", "does not exist"),
        (f"nowhere/{'a' * 300}/a", "does not exist|too long"),
        ("~/a", "does not exist"),
        (f"{Path(__file__).name}/a", "does not exist"),
    ],
)
def test_paths_that_name_no_file_are_refused(tmp_path, monkeypatch, path, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / Path(__file__).name).touch()
    with pytest.raises((ValueError, OSError), match=words) as refusal:
        OwnedFile(path).acquire()
    assert str(refusal.value).count("path=") == 1
    assert len(str(refusal.value)) <= 300
    assert names(tmp_path) == [Path(__file__).name]


@posix
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (fifo, "not a regular file"),
        (lambda _: "/dev/null", "not a regular file"),
        (lambda _: "/dev/full", "not a regular file"),
        (lambda folder: folder / ("a" * 255), "too long"),
        (lambda folder: folder / ("a" * 999), "too long"),
        (lambda _: "/".join(["a" * 99] * 99), "does not exist|too long"),
        (lambda _: "\ud800", "name of a file"),
        (loop, "symbolic links"),
        (read_only, "read-only"),
        pytest.param(
            lambda _: "/proc/fit.ckpt",
            "cannot be written",
            marks=pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="Linux"),
        ),
    ],
)
def test_files_that_cannot_be_replaced_are_refused(tmp_path, make, words):
    path = make(tmp_path)
    before = names(tmp_path)
    with pytest.raises((ValueError, OSError), match=words) as refusal:
        OwnedFile(path).acquire()
    assert len(str(refusal.value)) <= 300
    assert names(tmp_path) == before


@as_user
@pytest.mark.parametrize("mode", [0o500, 0o000])
def test_a_folder_without_permission_is_refused(tmp_path, mode):
    folder = tmp_path / "folder"
    folder.mkdir(mode=mode)
    with pytest.raises(PermissionError) as refusal:
        OwnedFile(folder / "fit.ckpt").acquire()
    assert_says(refusal, folder / "fit.ckpt")


@posix
def test_links_stay_and_lead_to_the_new_content(tmp_path):
    (tmp_path / "store").mkdir()
    link, hard = tmp_path / "link", tmp_path / "hard"
    link.symlink_to("store/kept")
    for content in (b"first", b"second"):  # the link leads nowhere at first
        file = OwnedFile(link)
        file.acquire()
        file.write(lambda stream, content=content: stream.write(content))
        file.release()
        assert link.is_symlink()
        assert (tmp_path / "store" / "kept").read_bytes() == content
        if not hard.exists():
            os.link(tmp_path / "store" / "kept", hard)
    assert hard.read_bytes() == b"first"
    assert names(tmp_path / "store") == ["kept"]


def test_the_working_folder_may_change(tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "a")
    file = OwnedFile("fit.ckpt")
    monkeypatch.chdir(tmp_path / "b")
    file.acquire()
    file.write(lambda stream: stream.write(b"new"))
    file.release()
    assert names(tmp_path / "a") == ["fit.ckpt"]
    assert names(tmp_path / "b") == []


@posix
def test_permissions_are_those_of_the_mask_or_of_the_file_before(path):
    before = os.umask(0o027)
    try:
        file = OwnedFile(path)
        file.acquire()
        for given, expected in (None, 0o640), (0o600, 0o600), (0o666, 0o666):
            if given is not None:
                path.chmod(given)
            file.write(lambda stream: stream.write(b"new"))
            assert stat.S_IMODE(path.stat().st_mode) == expected
        file.release()
    finally:
        os.umask(before)


# Failures


def test_what_is_there_is_read(owned, path, monkeypatch):
    assert owned.read(lambda stream: stream.read()) == b"old"

    def refuse(stream):
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="cannot be read: Input/output") as refusal:
        owned.read(refuse)
    assert_says(refusal, path)
    path.unlink()
    assert owned.read(refuse) is None


def full(*args):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_what_the_system_refuses_leaves_the_old_file(
    owned, path, tmp_path, monkeypatch, name
):
    with monkeypatch.context() as patch:
        patch.setattr(os, name, full)
        with pytest.raises(OSError, match="No space left") as refusal:
            owned.write(lambda stream: stream.write(b"new"))
    assert refusal.value.errno == errno.ENOSPC
    assert_says(refusal, path)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["fit.ckpt", "fit.ckpt.lock"]
    owned.write(lambda stream: stream.write(b"new"))
    assert path.read_bytes() == b"new"


@posix
@pytest.mark.parametrize("size", [1000, 3000, 10**6])
def test_a_file_that_outgrows_its_limit_leaves_the_old_one(owned, path, tmp_path, size):
    """The system's own error, of the last write, of the first or of one in between."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    content = [torch.zeros(size), torch.zeros(size)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, before[1]))
    try:
        with pytest.raises(OSError, match="cannot be written: File too") as refusal:
            owned.write(partial(torch.save, content))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert refusal.value.errno == errno.EFBIG
    assert_says(refusal, path)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["fit.ckpt", "fit.ckpt.lock"]


def test_errors_hidden_by_torch_are_found(owned, path):
    """Whichever of its writes fails."""

    def fail_at(number, stream):
        left, write = iter(range(number)), stream.write

        class Failing:
            def write(self, content):
                return full() if next(left, None) is None else write(content)

        torch.save({"weights": torch.zeros(9)}, Failing())

    for number in range(6):
        with pytest.raises(OSError, match="No space left"):
            owned.write(partial(fail_at, number))
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, MemoryError, TypeError, SystemExit]
)
def test_other_failures_stay_what_they_are(owned, path, tmp_path, error):
    def fail(stream):
        stream.write(b"ne")
        raise error("mine")

    try:
        full()
    except OSError:  # the caller may be handling another error of the system
        with pytest.raises(error, match="mine"):
            owned.write(fail)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["fit.ckpt", "fit.ckpt.lock"]


def test_a_folder_that_vanishes_is_named(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    file = OwnedFile(folder / "fit.ckpt")
    file.acquire()
    os.remove(folder / "fit.ckpt.lock")
    folder.rmdir()
    with pytest.raises(ValueError, match="does not exist") as refusal:
        file.write(lambda stream: stream.write(b"new"))
    assert_says(refusal, folder / "fit.ckpt")
    file.release()
    assert names(tmp_path) == []


def test_readers_see_one_content_or_the_other(owned, path):
    contents = [bytes([number]) * 50_000 for number in range(12)]
    seen, done = set(), threading.Event()

    def read():
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for content in contents:
        owned.write(lambda stream, content=content: stream.write(content))
    done.set()
    reader.join()
    assert seen <= {b"old", *contents}


def test_nothing_global_changes(owned):
    """The names of files are not drawn from a generator of the user."""
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    owned.write(lambda stream: stream.write(b"new"))
    assert np.array_equal(np.random.get_state()[1], before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
