"""Texts of the report: words that are joined, and the project's own Markdown as a part of an HTML page."""

from __future__ import annotations

from collections.abc import Iterable

from markdown_it import MarkdownIt
from markupsafe import Markup

_DEEPEST = 6


def joined(words: Iterable[object], last: str = "and") -> str:
    """Words with commas, and with the last of them an `and`."""
    every = [str(word) for word in words]
    return f" {last} ".join([", ".join(every[:-1]), every[-1]] if len(every) > 1 else every)


def html_of(markdown: str, *, level: int, drop_title: bool = True) -> Markup:
    """Markdown as HTML that needs no style attribute; HTML in it is shown as text, and links and images of it are left out.

    Parameters
    ----------
    markdown : what a summary says.
    level : of its second headings, `##`; deeper ones follow. The first heading is its title.
    drop_title : leave the title out, since the page has its own.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink"])
    tokens = parser.parse(markdown)
    if drop_title and tokens and tokens[0].type == "heading_open" and tokens[0].tag == "h1":
        tokens = tokens[3:]
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(max(int(token.tag[1:]) - 2, 0) + level, _DEEPEST)}"
        elif token.type in ("th_open", "td_open"):
            if "right" in str(token.attrs.pop("style", "")):
                token.attrSet("class", "number")
            if token.type == "th_open":
                token.attrSet("scope", "col")
    html: str = parser.renderer.render(tokens, parser.options, {})
    # A wide table is scrolled by itself, by keyboard too.
    html = html.replace("<table>", '<div class="scroll" tabindex="0" role="group" aria-label="table"><table>')
    return Markup(html.replace("</table>", "</table></div>"))
