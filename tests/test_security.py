"""SECURITY.md: no pickle is read, nothing is evaluated."""

import ast
from pathlib import Path

import pytest

import sklpos

ROOT = Path(sklpos.__file__).parent
BUILTINS = {"eval", "exec", "compile", "__import__"}
MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "skops"}


def findings(source: str) -> list[str]:
    """Return what runs code, or reads a file that can."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name, given = ast.unparse(node.func), ast.unparse(node)
            if name in BUILTINS or name.endswith((".allow_pickle", "np.load")):
                found.append(given)
            if name == "torch.load" and "weights_only=True" not in given:
                found.append(given)
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in MODULES]
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in MODULES:
            found.append(node.module)
    return found


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: p.stem)
def test_no_code_comes_from_a_file(path):
    assert findings(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')",
        "exec(code)",
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_it_would_be_found(source):
    assert findings(source)


def test_what_is_allowed():
    assert not findings("torch.load(path, weights_only=True); module.eval()")
