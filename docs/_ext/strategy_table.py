"""The directive ``strategy-table``: every strategy, as the registry declares it."""

from inspect import getdoc

from sphinx.util.docutils import SphinxDirective

from sklpos import STRATEGIES

HEADER = ("Name", "Class", "Guarantee", "Linear head", "What it does")


def row(name, strategy):
    """Return the cells of one strategy."""
    return (
        f'``"{name}"``',
        f":class:`~sklpos.strategies.{strategy.__name__}`",
        f"``{strategy.guarantee}``",
        "yes" if strategy.needs_head else "no",
        getdoc(strategy).partition("\n")[0],
    )


class StrategyTable(SphinxDirective):
    """A table in the order of the registry."""

    def run(self):
        """Return the parsed table."""
        rows = [HEADER, *(row(*item) for item in STRATEGIES.items())]
        options = "header-rows: 1", "widths: auto", "class: sentences"
        lines = [".. list-table::", *(f"   :{option}" for option in options), ""]
        for cells in rows:
            bullets = ("* -", *["  -"] * (len(cells) - 1))
            lines += [
                f"   {mark} {cell}" for mark, cell in zip(bullets, cells, strict=True)
            ]
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app):
    """Register the directive."""
    app.add_directive("strategy-table", StrategyTable)
    return {"parallel_read_safe": True}
