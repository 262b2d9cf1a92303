"""Returned answers: one CSV a reader, written by the page, checked against the sealed key before anything is computed."""

from __future__ import annotations

import csv
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histoprompt.errors import InputError
from histoprompt.files import atomic, read_json
from histoprompt.reader_study.order import Presentation, presentation

COLUMNS = (
    *("study", "page", "reader", "position", "image", "repeat"),
    *("answer", "confidence", "diagnosis", "remark", "seconds", "check"),
)
ANSWERS = ("real", "synthetic")
STEPS = 5  # of confidence
SIMULATED = "simulated-"  # how the codes of readers begin who are no people
_KEY = ("study", "page", "seed", "classes", "blocks", "repeats", "training", "images")
_SHOWN = 12  # faults spelled out in one message


@dataclass(frozen=True)
class Answer:
    """One answer, joined with nothing yet."""

    image: str
    repeat: bool
    position: int
    synthetic: bool
    confidence: int
    diagnosis: str
    seconds: float


@dataclass(frozen=True)
class Session:
    """What one reader answered, in the order of the session; `missing` images had no answer yet when the file was made."""

    reader: str
    file: str
    answers: list[Answer]
    missing: int


def check_of(fields: Sequence[str]) -> str:
    """Eight hexadecimal digits that betray a change of any field of a row: CRC-32 of all but the last, joined by U+001F."""
    return f"{zlib.crc32(chr(0x1F).join(fields).encode()):08x}"


def write_answers(path: str | Path, rows: Iterable[Sequence[str]]) -> None:
    """Write answers as the page does.

    Parameters
    ----------
    rows : the fields of `COLUMNS` but the last, which is computed.
    """
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\r\n")
        writer.writerow(COLUMNS)
        writer.writerows([*row, check_of(row)] for row in rows)


def find_answers(folder: str | Path | None) -> list[str]:
    """The CSV files of a folder, in the order of their names.

    Raises
    ------
    InputError : no folder is named, or there is no such file in it.
    """
    key = "config key `reader_study.answers`"
    remedy = "put the CSV files that readers sent back into a folder, one for each reader, and give its path"
    if folder is None:
        raise InputError(key, found="null", expected="a folder of answers", remedy=remedy)
    files = sorted(str(path) for path in Path(folder).glob("*.csv"))
    if not files:
        raise InputError(key, found=f"no CSV file in {folder}", expected="a folder of answers", remedy=remedy)
    return files


def read_key(path: str | Path) -> dict[str, Any]:
    """Read the sealed key of a reader study."""
    key = read_json(path)
    missing = [name for name in _KEY if name not in key]
    if missing:
        raise InputError(
            path,
            found=f"no {', '.join(missing)}",
            expected="the key.json that was made with the page",
            remedy="give the key of the page that was handed out",
        )
    return key


def read_sessions(paths: Sequence[str | Path], key: Mapping[str, Any], *, simulated: bool) -> list[Session]:
    """Read and check one file a reader, in the order of their codes.

    A session that ends early is one; an answer that is missing before its end is a fault, as is anything else that the page
    does not write. Nothing is repaired or guessed.

    Parameters
    ----------
    paths : CSV files with the columns `COLUMNS`.
    key : as `read_key` gives it.
    simulated : whether the readers are simulated ones, whose codes say so; people and simulations are never mixed.

    Raises
    ------
    InputError : every fault of every file in one message, with the file's name and lines.
    """
    faults = _Faults()
    sessions: dict[str, Session] = {}
    for path in sorted(map(Path, paths), key=str):
        session = _read_session(path, key, faults, simulated)
        if session is None:
            continue
        same = sessions.setdefault(session.reader.lower(), session)
        if same is not session:
            faults.add(path, None, f"reader {session.reader!r} a second time: {same.file} has this reader already")
    faults.refuse_if_any()
    return [sessions[reader] for reader in sorted(sessions)]


class _Faults:
    """Faults by file and wording, with the lines that have them."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], list[int]] = {}

    def add(self, path: Path, line: int | None, text: str) -> None:
        self.found.setdefault((str(path), text), []).extend([] if line is None else [line])

    def of(self, path: Path) -> bool:
        return any(file == str(path) for file, _ in self.found)

    def refuse_if_any(self) -> None:
        if not self.found:
            return
        files = list(dict.fromkeys(file for file, _ in self.found))
        texts = [f"{file}{_lines(lines)}: {text}" for (file, text), lines in self.found.items()]
        more = [f"and {len(texts) - _SHOWN} more"] if len(texts) > _SHOWN else []
        raise InputError(
            files[0] if len(files) == 1 else f"{len(files)} files of answers",
            found="\n    ".join([f"{len(texts)} fault{'s' if len(texts) > 1 else ''}", *texts[:_SHOWN], *more]),
            expected="files as the page wrote them, one for each reader, answered on the page that belongs to the key",
            remedy="ask the reader for the file as it was downloaded, not saved again by a spreadsheet program, "
            "or take the file out of the folder",
        )


def _lines(lines: Sequence[int]) -> str:
    """` line 3` or ` lines 2–9, 12`; nothing for a fault of the whole file."""
    runs: list[list[int]] = []
    for line in lines:
        if runs and line == runs[-1][1] + 1:
            runs[-1][1] = line
        else:
            runs.append([line, line])
    text = ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in runs)
    return f" line{'s' if len(lines) > 1 else ''} {text}" if lines else ""


def _records(path: Path, faults: _Faults) -> list[tuple[int, list[str]]]:
    """(number of the first line, fields) of every row below the header."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:  # a spreadsheet program wants the mark, we do not
            reader = csv.reader(stream, strict=True)
            header = next(reader, [])
            if tuple(header) != COLUMNS:
                faults.add(path, 1, f"the columns {','.join(header) or '(none)'} in place of {','.join(COLUMNS)}")
                return []
            records, line = [], reader.line_num
            for fields in reader:
                records.append((line + 1, fields))
                line = reader.line_num
    except (OSError, ValueError, csv.Error) as error:
        faults.add(path, None, f"no readable CSV file in UTF-8 ({error})")
        return []
    if not records:
        faults.add(path, None, "no answer in it")
    return records


def _read_session(path: Path, key: Mapping[str, Any], faults: _Faults, simulated: bool) -> Session | None:
    records = _records(path, faults)
    rows: list[tuple[int, dict[str, str]]] = []
    for line, fields in records:
        if len(fields) != len(COLUMNS):
            faults.add(path, line, f"{len(fields)} fields in place of {len(COLUMNS)}")
            continue
        row = dict(zip(COLUMNS, fields, strict=True))
        for name, what in (("study", "of the study"), ("page", "answered on the page")):
            if row[name] != str(key[name]):
                faults.add(path, line, f"{what} {row[name]!r}, while the key is that of {key[name]!r}")
        if row["check"] != check_of(fields[:-1]):
            faults.add(path, line, "the check does not match: a field was changed after the download")
        rows.append((line, row))
    codes = dict.fromkeys(row["reader"].strip() for _, row in rows)
    if len(codes) > 1:
        faults.add(path, None, f"{len(codes)} readers in one file: {', '.join(map(repr, codes))}")
    for code in codes:
        if not code:
            faults.add(path, None, "no reader code")
        elif code.lower().startswith(SIMULATED) != simulated:
            kind = "a person among simulated readers" if simulated else "a simulated reader among people"
            faults.add(path, None, f"{code!r} is {kind}")
    if not rows or faults.of(path):
        return None  # what follows would be a consequence
    reader = next(iter(codes))
    order = [shown for shown in presentation(key, reader) if shown.part == "main"]
    answers = _answers(path, rows, order, key, faults)
    return None if faults.of(path) else Session(reader, path.name, answers, len(order) - len(answers))


def _answers(
    path: Path,
    rows: Sequence[tuple[int, dict[str, str]]],
    order: Sequence[Presentation],
    key: Mapping[str, Any],
    faults: _Faults,
) -> list[Answer]:
    """The answers in the order of the session; what cannot be one is added to the faults."""
    shown = {presentation.position: presentation for presentation in order}
    parts = {entry["image"]: entry["part"] for entry in key["images"]}
    words = ("", *key["classes"])
    answers: dict[int, Answer] = {}
    for line, row in rows:
        position = _whole(row["position"])
        place = None if position is None else shown.get(position)
        if row["image"] not in parts:
            faults.add(path, line, f"image {row['image']!r}, which the key does not know")
        elif parts[row["image"]] != "main":
            faults.add(path, line, f"image {row['image']!r} of the training round")
        elif place is None or position is None:
            faults.add(path, line, f"position {row['position']!r}, which this reader's session does not have")
        elif (row["image"], row["repeat"]) != (place.image, str(int(place.repeat))):
            again = " again" if place.repeat else ""
            faults.add(path, line, f"not as this reader's order says: position {position} shows {place.image!r}{again}")
        elif position in answers:
            faults.add(path, line, f"position {position} a second time")
        confidence, seconds = _whole(row["confidence"]), _decimal(row["seconds"])
        if row["answer"] not in ANSWERS:
            faults.add(path, line, f"answer {row['answer']!r}, neither real nor synthetic")
        if confidence not in range(1, STEPS + 1):
            faults.add(path, line, f"confidence {row['confidence']!r}, not one of 1 to {STEPS}")
        if row["diagnosis"] not in words:
            faults.add(path, line, f"diagnosis {row['diagnosis']!r}, none of {', '.join(key['classes'])}")
        if seconds is None:
            faults.add(path, line, f"seconds {row['seconds']!r}, no decimal number")
        if position is not None and confidence is not None and seconds is not None:
            answers[position] = Answer(
                image=row["image"],
                repeat=row["repeat"] == "1",
                position=position,
                synthetic=row["answer"] == "synthetic",
                confidence=confidence,
                diagnosis=row["diagnosis"],
                seconds=seconds,
            )
    if not faults.of(path):
        last = max(answers)
        for place in order:
            if place.position < last and place.position not in answers:
                faults.add(
                    path, None, f"no answer to image {place.image!r} at position {place.position}, though later ones have one"
                )
    return [answers[position] for position in sorted(answers)]


def _whole(text: str) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else None


def _decimal(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) else None
