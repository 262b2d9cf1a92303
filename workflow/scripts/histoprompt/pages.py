"""What pages that open from disk have in common: no program runs in them but ours, and no text of a study is ever markup."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

_SHARED = Path(__file__).with_name("page")


def text_of(page: Path) -> dict[str, str]:
    """All text of a page, by what it is for."""
    text: dict[str, str] = json.loads((page / "text.json").read_text(encoding="utf-8"))
    return text


def assemble(page: Path, scripts: Sequence[str], *, title: str, images: str, **content: str) -> str:
    """The HTML of a page with a program: its style and program follow what all pages share.

    Parameters
    ----------
    page : folder with `index.html`, `style.css`, `text.json` and the scripts.
    scripts : files of its program, in this order.
    title : of its window.
    images : source expressions from which the policy lets it show images; it loads nothing else.
    content : what its template names beside these, ready to stand in HTML.
    """
    text = text_of(page)
    style = _joined([_SHARED / "style.css", page / "style.css"])
    script = _joined([_SHARED / "elements.js", *(page / name for name in scripts)])
    policy = (
        f"default-src 'none'; script-src '{csp_hash(script)}'; style-src '{csp_hash(style)}'; img-src {images}; "
        "connect-src 'none'; form-action 'none'; base-uri 'none'; require-trusted-types-for 'script'"
    )
    return Template((page / "index.html").read_text(encoding="utf-8")).substitute(
        language=html.escape(text["language"]),
        title=html.escape(title),
        no_script=html.escape(text["no_script"]),
        policy=policy,
        style=style,
        script=script,
        text=json_in_html(text, indent=1),
        **content,
    )


def _joined(files: Sequence[Path]) -> str:
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def csp_hash(content: str) -> str:
    """The source expression by which a content-security policy allows exactly this inline script or style."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def json_in_html(content: Any, indent: int | None = None) -> str:
    """JSON that can stand inside a script element, whatever texts it holds."""
    return json.dumps(content, ensure_ascii=False, indent=indent, allow_nan=False).replace("<", "\\u003c")
