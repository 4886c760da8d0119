"""Pages of classes: their own methods, and what users call of scikit-learn's."""

import re

#: Methods that scikit-learn defines or makes, and that belong to the use of a model.
INHERITED = {
    "get_metadata_routing",
    "get_params",
    "predict",
    "score",
    "set_fit_request",
    "set_params",
    "set_partial_fit_request",
    "set_score_request",
}
#: A reference to a label or a term of scikit-learn's documentation.
LABEL = re.compile(r":(?:ref|term):`([^`<]+?)(?:\s*<[^`>]+>)?`")


def defined_in(member) -> str:
    """Module of a function, a method or the getter of a property."""
    getter = getattr(member, "fget", None) or member
    return getattr(getter, "__module__", None) or "sklpos"


def skip(app, what, name, member, skip, options):
    """Leave out members that another package defines; otherwise do not decide."""
    module = defined_in(member)
    if module.split(".")[0] == "sklpos":
        return None
    return not (module.startswith("sklearn.") and name in INHERITED)


def without_labels(app, what, name, obj, options, lines):
    """Replace references to labels of other documentations by their text."""
    text = "\n".join(lines)
    if defined_in(obj).startswith("sklearn."):
        lines[:] = LABEL.sub(r"\1", text).splitlines()


def setup(app):
    """Connect both to autodoc."""
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-docstring", without_labels)
    return {"parallel_read_safe": True}
