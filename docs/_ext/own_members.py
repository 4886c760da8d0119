"""Pages of classes: methods of our own, not those that other packages document."""


def skip(app, what, name, member, skip, options):
    """Leave out members that another package defines; otherwise do not decide."""
    module = getattr(member, "__module__", None) or "sklpos"
    return None if module.split(".")[0] == "sklpos" else True


def setup(app):
    """Connect `skip` to autodoc."""
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True}
