"""Where the documentation is: for the links in scikit-learn's HTML."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, metadata


def documentation_url() -> str:
    """Return the address of the documentation, as the package declares it.

    Returns
    -------
    str
        The "Documentation" among the project's URLs; empty if there is none.
    """
    try:
        declared = metadata("sklpos").get_all("Project-URL") or []
    except PackageNotFoundError:  # run from a checkout
        return ""
    urls = dict(entry.split(", ", 1) for entry in declared)
    return urls.get("Documentation", "").rstrip("/")


class DocumentationLinkMixin:
    """An estimator whose HTML links to its page in the reference."""

    _doc_link_module = "sklpos"

    @property
    def _doc_link_template(self) -> str:
        url = documentation_url()
        return url and f"{url}/reference/generated/sklpos.{{estimator_name}}.html"
