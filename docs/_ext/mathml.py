"""Formulas as MathML, which browsers draw themselves: no script, no network."""

from docutils.utils.math.latex2mathml import tex2mathml


def draw_inline(writer, node):
    """Write a formula within a line."""
    writer.body.append(tex2mathml(node.astext()))


def draw_block(writer, node):
    """Write a formula on lines of its own."""
    formula = tex2mathml(node.astext(), as_block=True)
    writer.body.append(f'<div class="math">{formula}</div>')


def leave(writer, node):
    """Close nothing: the formula is written whole."""


def setup(app):
    """Offer the renderer; Sphinx takes the one that `html_math_renderer` names."""
    app.add_html_math_renderer("mathml", (draw_inline, leave), (draw_block, leave))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True}
