"""Docstrings of the reference obey numpydoc, as those of scikit-learn do."""

import dataclasses
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

validate = pytest.importorskip("numpydoc.validate").validate

REFERENCE = Path(__file__).parents[1] / "docs/reference/index.rst"

# As in scikit-learn's own test: where a text begins, and names of results.
LAYOUT = {"GL01", "GL02", "RT02"}
# Left to the writer: a longer text, examples and links where they help (each class has
# an example, see the tests of the package's shape), and words for a parameter or result
# whose type and shape say all.
TASTE = {"ES01", "EX01", "SA01", "PR07", "RT03"}
# A summary that begins with a plural noun is taken for a verb, and a dtype in lower
# case for the beginning of a sentence.
MISTAKEN = {"SS05", "RT04", "PR08", "SS02"}
# As in scikit-learn's: attributes are described with their class.
OF_PROPERTIES = {"GL08", "PR01", "PR02", "RT01"}


def listed():
    """Every name of the reference."""
    module = "sklpos"
    for line in REFERENCE.read_text(encoding="utf-8").splitlines():
        if line.startswith(".. currentmodule:: "):
            module = line.split()[-1]
        elif re.fullmatch(r"   [\w.]+", line) and line.strip() != "strategies":
            yield f"{module}.{line.strip()}"


def is_own(member):
    function = getattr(member, "fget", member)
    return (getattr(function, "__module__", None) or "").startswith("sklpos")


def overrides_another_package(cls, name):
    """Whether the method is documented by torch or skorch, which call it."""
    bases = (b for b in cls.__mro__ if not b.__module__.startswith("sklpos"))
    return any(name in vars(base) for base in bases)


def documented():
    """Each class, function, method and property, by its name."""
    for path in listed():
        thing = pkgutil.resolve_name(path)
        # An instance has the documentation of its class.
        if not inspect.isclass(thing) and not inspect.isfunction(thing):
            continue
        yield path, thing
        for name, member in inspect.getmembers(thing) if inspect.isclass(thing) else ():
            is_public = not name.startswith("_") and is_own(member)
            is_member = callable(member) or isinstance(member, property)
            if is_public and is_member and not overrides_another_package(thing, name):
                yield f"{path}.{name}", member


def errors_of(path, thing):
    ignored = LAYOUT | TASTE | MISTAKEN
    if isinstance(thing, property):
        ignored |= OF_PROPERTIES
    if dataclasses.is_dataclass(thing):
        # Results are described as attributes, see the next test.
        ignored |= {"PR01"}
    return [text for code, text in validate(path)["errors"] if code not in ignored]


def test_docstrings_obey_numpydoc():
    found = {path: errors_of(path, thing) for path, thing in documented()}
    assert len(found) > 200
    assert {path: errors for path, errors in found.items() if errors} == {}


def test_fields_of_results_are_described():
    """As parameters, or as attributes."""
    lacking = [
        f"{path}: {field.name}"
        for path, thing in documented()
        if dataclasses.is_dataclass(thing)
        for field in dataclasses.fields(thing)
        if not field.name.startswith("_")
        and not re.search(rf"^ *(\w+, )*{field.name}(, \w+)* :", thing.__doc__, re.M)
    ]
    assert lacking == []
