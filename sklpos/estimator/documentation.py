"""Address of the documentation, for the links in scikit-learn's HTML."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, metadata


def documentation_url() -> str:
    """Address of the documentation, as the package declares it.

    Returns
    -------
    str
        The "Documentation" among the project's URLs; empty if there is none.
    """
    try:
        declared = metadata("sklpos").get_all("Project-URL") or []
    except PackageNotFoundError:
        # Run from a checkout, without an installation.
        return ""
    urls = dict(entry.split(", ", 1) for entry in declared)
    return urls.get("Documentation", "").rstrip("/")


def documentation_template() -> str:
    """Address of an estimator's page, with a placeholder for its name.

    Returns
    -------
    str
        Empty if no documentation is declared.
    """
    url = documentation_url()
    return url and f"{url}/reference/generated/sklpos.{{estimator_name}}.html"
