# SPDX-License-Identifier: MIT
"""Sphinx's side: a directive and a role that put parts of the code into pages, and formulas.

Formulas become MathML, which browsers draw by themselves: nothing is fetched to read a page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.parsers.rst.states import Inliner
from docutils.statemachine import StringList
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole

from .from_code import format_value, make_part, read_value


class FromCode(Directive):
    """``{from-code} NAME …``: a part of `from_code.PARTS` in this place."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Make the part, and read it as Markdown."""
        try:
            text = make_part(self.arguments[0])
        except LookupError as error:
            raise self.error(str(error)) from error
        if text.startswith("<"):
            return [nodes.raw("", text, format="html")]
        parent = nodes.Element()
        self.state.nested_parse(StringList(text.splitlines(), "from-code"), 0, parent)
        return parent.children


class Value(SphinxRole):
    """``{value}`module:NAME` ``: a constant of the code."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Read the constant."""
        try:
            return [nodes.Text(format_value(read_value(self.text)))], []
        except (ImportError, AttributeError, LookupError) as error:
            inliner: Inliner = self.inliner
            told = inliner.reporter.error(f"no value {self.text}: {error}", line=self.lineno)
            return [inliner.problematic(self.rawtext, self.rawtext, told)], [told]


def visit_math(translator: Any, node: nodes.Element) -> None:
    """A formula within a line."""
    translator.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def visit_block(translator: Any, node: nodes.Element) -> None:
    """A formula of its own."""
    formula = tex2mathml(node.astext(), as_block=True)
    translator.body.append(f'<div class="formula">{formula}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx."""
    no_end: Sequence[Any] = (None,)
    app.add_directive("from-code", FromCode)
    app.add_role("value", Value())
    app.add_html_math_renderer("mathml", (visit_math, *no_end), (visit_block, *no_end))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
