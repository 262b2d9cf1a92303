"""Returned answers are taken as the page wrote them, or refused with every fault named by file and line."""

from __future__ import annotations

import csv
import io
import zlib
from pathlib import Path
from typing import Any

import pytest
from reader_studies import make_key, session_rows, write_key, write_session

from histoprompt.errors import InputError
from histoprompt.reader_study.answers import COLUMNS, check_of, find_answers, read_key, read_sessions, write_answers
from histoprompt.reader_study.order import presentation

KEY = make_key()


def honest(entry: Any, place: Any) -> dict[str, str]:
    return {"answer": entry["source"], "remark": 'folds, "mucin"\nand ink'}


def rows(reader: str = "R1") -> list[list[str]]:
    return session_rows(KEY, reader, honest)


def write_raw(path: Path, content: list[list[str]]) -> Path:
    """Rows with whatever check they have, below the header."""
    stream = io.StringIO()
    csv.writer(stream).writerows([list(COLUMNS), *content])
    path.write_text(stream.getvalue(), newline="")
    return path


def message(*paths: Path, simulated: bool = False) -> str:
    with pytest.raises(InputError) as caught:
        read_sessions(paths, KEY, simulated=simulated)
    return str(caught.value)


def test_the_check_is_a_crc_of_the_other_fields() -> None:
    assert int(check_of(["a", "ü", "3"]), 16) == zlib.crc32("a\x1fü\x1f3".encode())
    assert check_of(["123456789"]) == "cbf43926"  # the check value of every table of CRCs


def test_what_was_answered_is_read(tmp_path: Path) -> None:
    paths = [write_session(tmp_path / f"{name}.csv", KEY, name, honest) for name in ("Zoe", "adam")]
    sessions = read_sessions(paths, KEY, simulated=False)
    assert [session.reader for session in sessions] == ["adam", "Zoe"]
    truth = {entry["image"]: entry["source"] == "synthetic" for entry in KEY["images"]}
    for session in sessions:
        shown = [place for place in presentation(KEY, session.reader) if place.part == "main"]
        assert [(a.position, a.image, a.repeat) for a in session.answers] == [(p.position, p.image, p.repeat) for p in shown]
        assert all(answer.synthetic == truth[answer.image] for answer in session.answers)
        assert session.missing == 0 and {answer.seconds for answer in session.answers} == {3.25}


def test_a_byte_order_mark_and_another_order_of_rows_change_nothing(tmp_path: Path) -> None:
    plain = write_session(tmp_path / "plain.csv", KEY, "R1", honest)
    marked = tmp_path / "marked.csv"
    marked.write_bytes(b"\xef\xbb\xbf" + plain.read_bytes())
    turned = tmp_path / "turned.csv"
    write_answers(turned, rows()[::-1])
    expected = read_sessions([plain], KEY, simulated=False)[0].answers
    assert read_sessions([marked], KEY, simulated=False)[0].answers == expected
    assert read_sessions([turned], KEY, simulated=False)[0].answers == expected


def test_a_session_that_was_broken_off_says_how_many_are_missing(tmp_path: Path) -> None:
    write_answers(tmp_path / "half.csv", rows()[:25])
    session = read_sessions([tmp_path / "half.csv"], KEY, simulated=False)[0]
    assert (len(session.answers), session.missing) == (25, 44 - 25)


def test_a_hole_is_no_broken_off_session(tmp_path: Path) -> None:
    content = rows()
    gone = content.pop(6)
    write_answers(tmp_path / "hole.csv", content)
    text = message(tmp_path / "hole.csv")
    assert f"no answer to image '{gone[4]}' at position 7, though later ones have one" in text


BAD_FIELDS = [
    ("study", "other", ["line 3", "of the study 'other'", "that of 'tiny'"]),
    ("page", "f" * 16, ["line 3", f"answered on the page '{'f' * 16}'", "'0123456789abcdef'"]),
    ("reader", "R2", ["2 readers in one file: 'R1', 'R2'"]),
    ("image", "unknown", ["line 3", "image 'unknown', which the key does not know"]),
    ("image", KEY["images"][-1]["image"], ["line 3", "of the training round"]),
    ("position", "9", ["line 3", "not as this reader's order says: position 9 shows"]),
    ("position", "99", ["line 3", "position '99', which this reader's session does not have"]),
    ("position", "two", ["line 3", "position 'two'"]),
    ("repeat", "1", ["line 3", "not as this reader's order says"]),
    ("answer", "Real", ["line 3", "answer 'Real', neither real nor synthetic"]),
    ("confidence", "6", ["line 3", "confidence '6', not one of 1 to 5"]),
    ("confidence", "0", ["confidence '0'"]),
    ("diagnosis", "tumour", ["line 3", "diagnosis 'tumour', none of healthy, cancer"]),
    ("seconds", "3,5", ["line 3", "seconds '3,5', no decimal number"]),
    ("seconds", "-1", ["seconds '-1'"]),
    ("seconds", "nan", ["seconds 'nan'"]),
]


@pytest.mark.parametrize(("column", "value", "parts"), BAD_FIELDS)
def test_one_wrong_field_is_named_with_its_line(tmp_path: Path, column: str, value: str, parts: list[str]) -> None:
    content = [[*row[:9], "", *row[10:]] for row in rows()]  # no remark, so that a row is a line
    content[1][COLUMNS.index(column)] = value
    write_answers(tmp_path / "r1.csv", content)
    text = message(tmp_path / "r1.csv")
    assert [part for part in ["r1.csv", *parts, "found:", "to do:"] if part not in text] == []


def test_all_faults_of_all_files_are_in_one_message_and_lines_follow_remarks_of_several_lines(tmp_path: Path) -> None:
    content = rows()
    content[0][6], content[2][7], content[3][7] = "maybe", "7", "7"
    write_answers(tmp_path / "a.csv", content)
    write_raw(tmp_path / "b.csv", [[*rows("R2")[0], "00000000"]])
    text = message(tmp_path / "a.csv", tmp_path / "b.csv")
    assert "2 files of answers" in text and "3 faults" in text
    assert "a.csv line 2: answer 'maybe'" in text  # every remark has two lines
    assert "a.csv lines 6, 8: confidence '7'" in text
    assert "b.csv line 2: the check does not match" in text


def test_a_file_of_another_page_says_so_once(tmp_path: Path) -> None:
    other = KEY | {"page": "f" * 16}
    text = message(write_session(tmp_path / "r1.csv", other, "R1", lambda entry, place: {}))
    assert "1 fault" in text and "lines 2–45: answered on the page" in text


def test_a_changed_field_does_not_pass_the_check(tmp_path: Path) -> None:
    content = [[*row, check_of(row)] for row in rows()]
    content[4][6] = "real" if content[4][6] == "synthetic" else "synthetic"
    text = message(write_raw(tmp_path / "r1.csv", content))
    assert "1 fault" in text and "line 10: the check does not match: a field was changed after the download" in text


def test_a_reader_twice(tmp_path: Path) -> None:
    paths = [write_session(tmp_path / f"{i}.csv", KEY, name, honest) for i, name in enumerate(("R1", " r1"))]
    text = message(*paths)
    assert "1.csv: reader 'r1' a second time: 0.csv has this reader already" in text
    content = [[*row[:9], "", *row[10:]] for row in rows()]
    write_answers(tmp_path / "twice.csv", [*content, content[0]])
    assert "line 46: position 1 a second time" in message(tmp_path / "twice.csv")


NO_ANSWERS = [
    (b"", ["(none)", "study,page,reader"]),
    (b"study;page;reader\n", ["line 1: the columns study;page;reader"]),
    (",".join(COLUMNS).encode(), ["no answer in it"]),
    (",".join(COLUMNS).encode() + b"\na,b\n", ["line 2: 2 fields in place of 12"]),
    (",".join(COLUMNS).encode() + b'\n"a', ["no readable CSV file in UTF-8"]),
    (",".join(COLUMNS).encode() + b"\n\xff", ["no readable CSV file in UTF-8"]),
]


@pytest.mark.parametrize(("content", "parts"), NO_ANSWERS)
def test_files_that_are_no_answers(tmp_path: Path, content: bytes, parts: list[str]) -> None:
    (tmp_path / "r1.csv").write_bytes(content)
    text = message(tmp_path / "r1.csv")
    assert [part for part in ["r1.csv", *parts] if part not in text] == []


def test_people_and_simulated_readers_are_not_mixed(tmp_path: Path) -> None:
    person = write_session(tmp_path / "r1.csv", KEY, "R1", honest)
    machine = write_session(tmp_path / "s.csv", KEY, "Simulated-sharp-1", honest)
    assert "'Simulated-sharp-1' is a simulated reader among people" in message(person, machine)
    assert "'R1' is a person among simulated readers" in message(person, machine, simulated=True)
    nobody = write_session(tmp_path / "n.csv", KEY, " ", honest)
    assert "no reader code" in message(nobody)


def test_where_answers_are_looked_for(tmp_path: Path) -> None:
    (tmp_path / "b.csv").touch()
    (tmp_path / "a.csv").touch()
    (tmp_path / "notes.txt").touch()
    assert find_answers(tmp_path) == [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]
    (tmp_path / "empty").mkdir()
    for folder, found in ((None, "null"), (tmp_path / "empty", "no CSV file in")):
        with pytest.raises(InputError, match=r"reader_study\.answers") as caught:
            find_answers(folder)
        assert found in str(caught.value) and "put the CSV files" in str(caught.value)


def test_a_key_that_is_none(tmp_path: Path) -> None:
    assert read_key(write_key(tmp_path, KEY)) == KEY
    (tmp_path / "key.json").write_text('{"study": "tiny"}')
    with pytest.raises(InputError, match="no page, seed"):
        read_key(tmp_path / "key.json")
