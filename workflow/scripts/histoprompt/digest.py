"""Digests that say whether a stage's code or a model has changed, whatever its time stamps, comments and docstrings."""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
from functools import cache
from pathlib import Path

_LAYOUT = {tokenize.ENCODING, tokenize.COMMENT, tokenize.NL, tokenize.ENDMARKER}
_WHOLE = 16 * 2**20  # a larger file is sampled: a model of many gigabytes must not delay every command
_BLOCKS, _BLOCK = 64, 2**16


def code_digest(script: str | Path) -> str:
    """SHA-256 over the code of a script and of every library module it imports, directly or through another.

    The imports are read from the program itself, those inside functions too; packages outside the script's folder are left
    to the environment. Comments, docstrings and blank lines do not count, and Python 3.11 to 3.13 give the same digest.

    Parameters
    ----------
    script : a Python file; modules are looked up in its folder.
    """
    script = Path(script)
    root = script.parent
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting.extend(_imported(path, root, path.stat().st_mtime_ns))
    digest = hashlib.sha256()
    for path in sorted(found):
        digest.update(f"{path.relative_to(root).as_posix()}\0{_file_digest(path, path.stat().st_mtime_ns)}\0".encode())
    return digest.hexdigest()


def normalised_code(source: str) -> str:
    """The tokens of a program, one after the other, without comments, docstrings, blank lines and layout.

    A string keeps its text as written. An f-string is taken whole: Python 3.12 began to split it into tokens.
    """
    lines = io.StringIO(source).readlines()
    docstrings = _docstrings(source, lines)
    parts: list[str] = []
    opened: list[tuple[int, int]] = []
    skip_to = (0, 0)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        name = tokenize.tok_name[token.type]
        if name in ("FSTRING_START", "TSTRING_START"):
            opened.append(token.start)
        elif name in ("FSTRING_END", "TSTRING_END"):
            start = opened.pop()
            if not opened:
                parts.append(_between(lines, start, token.end))
        elif opened or token.type in _LAYOUT or token.start < skip_to:
            continue
        elif token.start in docstrings:
            skip_to = docstrings[token.start]
        elif token.type == tokenize.NEWLINE:
            if parts and parts[-1] not in ("<newline>", "<indent>", "<dedent>"):  # else it ended a docstring
                parts.append("<newline>")
        elif token.type in (tokenize.INDENT, tokenize.DEDENT):
            parts.append(f"<{name.lower()}>")
        else:
            parts.append(token.string)
    return "\0".join(parts)


@cache
def model_digest(model: str | Path) -> str:
    """SHA-256 over the names and contents of a model folder's files; a hub id is its own digest, since its revision pins it.

    Files above 16 MiB count by their size and 64 blocks spread evenly over them.
    """
    folder = Path(model)
    if not folder.is_dir():
        return str(model)
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(_content(path))
    return digest.hexdigest()


def _content(path: Path) -> bytes:
    size = path.stat().st_size
    with open(path, "rb") as stream:
        if size <= _WHOLE:
            return hashlib.file_digest(stream, "sha256").digest()
        digest = hashlib.sha256()
        for block in range(_BLOCKS):
            stream.seek(block * (size - _BLOCK) // (_BLOCKS - 1))
            digest.update(stream.read(_BLOCK))
        return digest.digest()


@cache
def _file_digest(path: Path, _changed: int) -> str:
    return hashlib.sha256(normalised_code(_source(path)).encode()).hexdigest()


def _source(path: Path) -> str:
    with tokenize.open(path) as stream:
        return stream.read()


@cache
def _imported(path: Path, root: Path, _changed: int) -> tuple[Path, ...]:
    """Files below `root` that a program imports, and the `__init__.py` of every package on the way."""
    package = path.parent.relative_to(root).parts
    names: set[tuple[str, ...]] = set()
    for node in ast.walk(ast.parse(_source(path))):
        if isinstance(node, ast.Import):
            names.update(tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            names.add(module)
            names.update((*module, alias.name) for alias in node.names)
    files: list[Path] = []
    for name in sorted(names):
        for depth in range(1, len(name) + 1):
            place = root.joinpath(*name[:depth])
            files.extend(p for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file())
    return tuple(dict.fromkeys(files))


def _docstrings(source: str, lines: list[str]) -> dict[tuple[int, int], tuple[int, int]]:
    """Start -> end of every docstring, as (line, column in characters)."""

    def position(line: int, column: int) -> tuple[int, int]:
        return line, len(lines[line - 1].encode()[:column].decode())

    spans = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
                value = first.value
                assert value.end_lineno is not None and value.end_col_offset is not None
                spans[position(value.lineno, value.col_offset)] = position(value.end_lineno, value.end_col_offset)
    return spans


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    if start[0] == end[0]:
        return lines[start[0] - 1][start[1] : end[1]]
    return "".join([lines[start[0] - 1][start[1] :], *lines[start[0] : end[0] - 1], lines[end[0] - 1][: end[1]]])
