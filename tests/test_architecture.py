"""The shape of the package: layers, registry, sizes, documentation."""

import ast
import importlib
import inspect
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import sklpos
from sklpos import STRATEGIES, ConstraintStrategy
from sklpos.strategies.base import GUARANTEES

ROOT = Path(sklpos.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# Of our own, each module may import only from the layers below its own.
LAYERS = [
    {"documentation", "pipelines", "plotting.axes", "version", "arrays"},
    {"decay", "adam"},
    {"seeding", "targets", "heads", "modules", "parameters", "inputs"},
    {"trees", "states"},
    {"strategies.base", "data", "loop", "steps", "backprop"},
    {"metrics", "sklearn_callbacks", "repair.programme"},
    {"repair.nearest"},
    {"repair.robust", "repair.summary"},
    {"repair"},
    {"certificates.bodies", "certificates.relaxations", "certificates.goal"},
    {"certificates.risk"},
    {"certificates.activations", "certificates.regions"},
    {"certificates.layers", "certificates.domains"},
    {"certificates.bounds", "certificates.attack", "certificates.certificate"},
    {f"strategies.{path.stem}" for path in (ROOT / "strategies").glob("[a-z]*.py")}
    - {"strategies.base", "strategies.certified"},
    {"strategies.certified"},
    {"strategies"},
    {"validation", "callbacks", "product", "persistence"},
    {"splitting", "training", "violations"},
    {"rewinding", "checkpoints"},
    {"net"},
    {"building", "diagnostics"},
    {"certificates.alpha_crown", "certificates.rounding"},
    {"certificates.branch_and_bound", "certificates.milp"},
    {"certificates.rows", "certificates.features"},
    {"certificates.proof"},
    {"certificates.verify"},
    {"certificates.model"},
    {"certificates.estimator"},
    {"certificates"},
    {"repair.domain_task", "repair.shift"},
    {"repair.provable"},
    {"repair.estimator", "onnx_graph"},
    {"regressor", "distributed.share", "export"},
    {"reporting", "distributed.net"},
    {"plotting.history", "plotting.positivity", "plotting.comparison"},
    {"plotting", "distributed.fit"},
    {"distributed"},
    {""},
]

# Of numpy and scipy alone.
ARRAYS = ["repair.programme", "repair.nearest", "repair.robust", "repair.summary"]

MAY_BE_LONG = {
    "regressor.py": "one class, half of which is its documentation",
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


GRAPH = {name_of(path): imports_of(path) for path in FILES}


def layer_of(name: str) -> int:
    return next(height for height, layer in enumerate(LAYERS) if name in layer)


def test_every_file_has_a_layer():
    assert set(GRAPH) == set().union(*LAYERS)


def test_imports_have_no_cycle():
    assert len(list(TopologicalSorter(GRAPH).static_order())) == len(GRAPH)


@pytest.mark.parametrize("name", GRAPH)
def test_imports_point_downwards(name):
    for other in GRAPH[name]:
        assert layer_of(other) < layer_of(name), f"{name} imports {other}"


def test_the_mathematics_know_nothing_of_the_rest():
    """Strategies see modules and heads; repair and its programme see arrays."""
    bounds = {"certificates.layers", "certificates.bounds"}
    for name in GRAPH:
        if name.startswith("strategies"):
            others = {o for o in GRAPH[name] if not o.startswith("strategies")}
            if name == "strategies.certified":
                others -= bounds
            assert others <= {"heads", "modules"}
    for name in ARRAYS:
        assert all(other.startswith("repair.") for other in GRAPH[name])
    assert not GRAPH["modules"] | GRAPH["heads"]
    assert not any("regressor" in GRAPH[name] for name in GRAPH if name)
    for name in (*ARRAYS, "metrics"):
        path = ROOT / f"{name.replace('.', '/')}.py"
        assert "torch" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["certificates", "strategies"])
def test_each_package_can_be_imported_first(name):
    code = f"import sklpos.{name}"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_skorch_and_scikit_learn_stay_in_their_layers():
    """Strategies and modules are torch alone; nets do not validate input."""
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        rooms = {"strategies", "repair"} & set(path.parts)
        if rooms or path.stem in ("heads", "modules", "targets"):
            assert "import skorch" not in text
            assert "from skorch" not in text
        if path.stem in ("net", "data", "heads", "modules", "targets"):
            assert "sklearn.utils.validation" not in text


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


def test_every_strategy_declares_what_it_is(strategy):
    cls = STRATEGIES[strategy]
    assert cls.guarantee in GUARANTEES
    assert cls.__doc__
    assert "guarantee" in vars(cls) or cls.__base__ is not ConstraintStrategy
    assert cls().get_params() == cls(**cls().get_params()).get_params()
    assert strategy == strategy.lower()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_are_short(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 300 or path.name in MAY_BE_LONG
    assert lines <= 500


def test_the_exceptions_are_needed():
    for name in MAY_BE_LONG:
        assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) > 300


def public_objects():
    """Public classes, functions and methods, where they are defined."""
    for name in GRAPH:
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


@pytest.mark.parametrize(
    "thing", [pytest.param(thing, id=name) for name, thing in public_objects()]
)
def test_public_names_have_a_docstring(thing):
    assert inspect.getdoc(thing)


def test_public_names_exist():
    assert all(hasattr(sklpos, name) for name in sklpos.__all__)


def test_every_parameter_of_the_estimator_is_documented():
    documented = inspect.getdoc(sklpos.PositiveOutputRegressor).split("Attributes\n")[0]
    for name in inspect.signature(sklpos.PositiveOutputRegressor).parameters:
        assert f"\n{name} : " in documented or f"\n**{name} : " in documented


def test_every_fitted_attribute_is_documented(small, data):
    documented = inspect.getdoc(sklpos.PositiveOutputRegressor).split("Attributes\n")[1]
    model = small().fit(data.X, data.y)
    for name in dir(model):
        if name.endswith("_") and not name.startswith("_"):
            assert name in documented
