"""What is built is complete, and works where the checkout is not."""

import importlib.util
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

import sklpos

ROOT = Path(__file__).parents[1]
SOURCES = {
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "sklpos").rglob("*")
    if path.is_file() and path.suffix != ".pyc"
}
USAGE = Path(__file__).with_name("typed_usage.py")

pytestmark = pytest.mark.slow


def run(*command, cwd):
    """Run a command, away from the checkout."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build the wheel, from the sdist, as 'python -m build' does."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder]
    run(*command, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """Install the wheel into an environment that borrows only what it depends on."""
    folder = tmp_path_factory.mktemp("user")
    venv.create(folder / "env", symlinks=os.name != "nt")
    paths = {"base": str(folder / "env"), "platbase": str(folder / "env")}
    packages = Path(sysconfig.get_path("purelib", "venv", vars=paths))
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "borrowed.pth").write_text("\n".join(borrowed), encoding="utf-8")
    scripts = Path(sysconfig.get_path("scripts", "venv", vars=paths))
    python = scripts / Path(sys.executable).name
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    run(*pip, "--no-deps", "--no-index", wheel, cwd=folder)
    return python, packages, folder


def test_the_wheel_holds_the_package_alone(built):
    (wheel,) = built.glob("*.whl")
    names = set(ZipFile(wheel).namelist())
    info = f"sklpos-{sklpos.__version__}.dist-info/"
    assert {name for name in names if not name.startswith(info)} == SOURCES
    assert "sklpos/py.typed" in names
    assert f"{info}licenses/LICENSE" in names


def test_the_sdist_holds_what_tests_and_pages_need(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    tests = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("tests/*.py")}
    pages = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.md")}
    files = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "PKG-INFO"}
    assert SOURCES | tests | pages | files <= names
    assert not any(".venv" in name or name.endswith(".pyc") for name in names)


USE = """
import importlib.metadata
from pathlib import Path

import numpy as np
import sklpos

print(Path(sklpos.__file__).parent)
print(importlib.metadata.version("sklpos"))
X = np.linspace(-1, 1, 50).reshape(-1, 1)
model = sklpos.PositiveOutputRegressor(max_epochs=5, random_state=0)
print(model.fit(X, np.maximum(X.ravel(), 0)).predict(X).min() >= 0)
"""


def test_the_wheel_works(installed):
    python, packages, folder = installed
    printed = run(python, "-W", "error", "-c", USE, cwd=folder).splitlines()
    assert printed == [str(packages / "sklpos"), sklpos.__version__, "True"]


def test_a_typed_program_may_use_it(installed):
    """Strictly typed, and true: the same program runs."""
    pytest.importorskip("mypy")
    python, _, folder = installed
    cache = ["--cache-dir", folder / "cache", "--python-executable", python]
    run(sys.executable, "-m", "mypy", "--strict", *cache, USAGE, cwd=folder)
    if importlib.util.find_spec("onnx"):
        assert "sklpos" not in os.listdir(folder)
        run(python, USAGE, cwd=folder)
