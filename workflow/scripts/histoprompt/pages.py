"""What pages that open from disk have in common: no program runs in them but ours, and no text of a study is ever markup."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def script_of(page: Path, names: Sequence[str]) -> str:
    """The program of a page: what all pages share, then its own files, in this order."""
    files = [Path(__file__).with_name("page") / "elements.js", *(page / name for name in names)]
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def csp_hash(content: str) -> str:
    """The source expression by which a content-security policy allows exactly this inline script or style."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def json_in_html(content: Any, indent: int | None = None) -> str:
    """JSON that can stand inside a script element, whatever texts it holds."""
    return json.dumps(content, ensure_ascii=False, indent=indent, allow_nan=False).replace("<", "\\u003c")
