"""The shape of the package: rooms, registry, sizes, documentation."""

import ast
import functools
import importlib
import inspect
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import sklpos
from sklpos import STRATEGIES, ConstraintStrategy
from sklpos.strategies.base import GUARANTEES

ROOT = Path(sklpos.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

#: From the ground up: a room imports from itself and from rooms below it.
ROOMS = [
    {"version", "docstrings"},
    {"criteria"},
    {"nets"},
    {"certificates"},
    {"strategies"},
    {"repair"},
    {"training"},
    {"metrics", "callbacks", "decay"},
    {"estimator"},
    {"export", "distributed", "search"},
    {"plotting"},
    {""},
]

#: Of numpy and scipy alone.
ARRAYS = ["repair.programme", "repair.nearest", "repair.robust", "metrics"]

MAY_BE_LONG = {
    "estimator/regressor.py": "one class, half of which is documentation",
    "training/net.py": "one skorch net: short overrides, each with its docstring",
}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports_of(path: Path) -> set[str]:
    """Modules of the package that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "sklpos":
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {
        name.removeprefix("sklpos").lstrip(".")
        for name in found
        if name.split(".")[0] == "sklpos"
    }


@functools.cache
def graph() -> dict[str, set[str]]:
    return {name_of(path): imports_of(path) for path in FILES}


def height(name: str) -> int:
    room = name.split(".")[0]
    return next(floor for floor, rooms in enumerate(ROOMS) if room in rooms)


def test_no_upward_arrow_between_rooms():
    upward = [
        f"{name} -> {other}"
        for name, others in graph().items()
        for other in others
        if height(other) > height(name)
        or (height(other) == height(name) and other.split(".")[0] != name.split(".")[0])
    ]
    assert upward == []


def test_imports_have_no_cycle():
    order = TopologicalSorter(graph())
    assert len(list(order.static_order())) == len(graph())


def loaded_by(statement: str) -> set[str]:
    code = f"import sys, {statement}; print(*sys.modules)"
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_the_core_is_torch_alone():
    """A user's own loop loads neither skorch nor scikit-learn."""
    rooms = ("criteria", "nets", "certificates", "strategies", "repair")
    loaded = loaded_by(", ".join(f"sklpos.{room}" for room in rooms))
    assert not {name for name in loaded if name.startswith(("skorch", "sklearn."))}


def test_the_estimator_loads_no_other_estimators():
    """Those of scikit-learn would triple the time of the import."""
    loaded = loaded_by("sklpos.estimator.regressor")
    others = ("compose", "linear_model", "neighbors", "impute", "decomposition")
    assert not loaded & {f"sklearn.{name}" for name in others}


def test_programmes_are_numpy_and_scipy_alone():
    users = [
        name
        for name in ARRAYS
        if "torch" in (ROOT / f"{name.replace('.', '/')}.py").read_text("utf-8")
    ]
    assert users == []


def subclasses(cls) -> set:
    return set().union({cls}, *map(subclasses, cls.__subclasses__()))


def test_every_strategy_is_registered():
    for path in (ROOT / "strategies").glob("*.py"):
        importlib.import_module(f"sklpos.{name_of(path)}")
    ours = {
        cls
        for cls in subclasses(ConstraintStrategy)
        if cls.__module__.startswith("sklpos") and not inspect.isabstract(cls)
    }
    assert ours == set(STRATEGIES.values())
    assert len(STRATEGIES) == len(ours)


def test_every_strategy_declares_what_it_is():
    assert {cls.guarantee for cls in STRATEGIES.values()} <= set(GUARANTEES)
    assert [name for name, cls in STRATEGIES.items() if not cls.__doc__] == []
    assert [name for name in STRATEGIES if name != name.lower()] == []


def test_files_are_short():
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text("utf-8").splitlines())
        for path in FILES
    }
    long = {name for name, lines in lengths.items() if lines > 300}
    assert long == set(MAY_BE_LONG)
    assert max(lengths.values()) <= 500


def public_objects():
    """Public classes, functions and methods, where they are defined."""
    for name in graph():
        module = importlib.import_module(f"sklpos.{name}".rstrip("."))
        yield module.__name__, module
        for label, value in vars(module).items():
            if label.startswith("_") or getattr(value, "__module__", "") != (
                module.__name__
            ):
                continue
            if not (inspect.isclass(value) or inspect.isfunction(value)):
                continue
            yield f"{module.__name__}.{label}", value
            members = vars(value).items() if inspect.isclass(value) else ()
            for member, function in members:
                if inspect.isfunction(function) and not member.startswith("_"):
                    yield f"{module.__name__}.{label}.{member}", function


def test_public_names_have_a_docstring():
    assert [name for name, thing in public_objects() if not inspect.getdoc(thing)] == []


def test_public_names_exist():
    assert [name for name in sklpos.__all__ if not hasattr(sklpos, name)] == []


def test_every_search_has_the_same_time_limit():
    functions = [thing for _, thing in public_objects() if inspect.isfunction(thing)]
    parameters = [inspect.signature(function).parameters for function in functions]
    limits = {own["time_limit"].default for own in parameters if "time_limit" in own}
    assert limits - {inspect.Parameter.empty} == {10.0}


def test_every_parameter_of_the_estimator_is_documented():
    documented = inspect.getdoc(sklpos.PositiveOutputRegressor).split("Attributes\n")[0]
    names = inspect.signature(sklpos.PositiveOutputRegressor).parameters
    missing = [n for n in names if not re.search(rf"^(\*\*)?{n} : ", documented, re.M)]
    assert missing == []


def test_every_fitted_attribute_is_documented(small, data):
    documented = inspect.getdoc(sklpos.PositiveOutputRegressor).split("Attributes\n")[1]
    names = dir(small().fit(data.X, data.y))
    fitted = [n for n in names if n.endswith("_") and not n.startswith("_")]
    assert [name for name in fitted if name not in documented] == []
