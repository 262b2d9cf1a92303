"""Whatever a user gives that cannot be used: one message with file, found, expected and remedy, and nothing is touched.

The tables of cases are those of the tests of each stage, which say what the message holds; here all of them are held to the
same contract, and counted.
"""

from __future__ import annotations

import copy
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import test_config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reader_studies import make_key, write_session
from test_config import BAD_STUDIES, SCHEMA, change
from test_diffusion import DEFECTS
from test_embedding import BAD_ENCODERS
from test_importing import BAD_PCAM, BAD_TABLES, make_folders, make_pcam, make_table, spoil, take
from test_patches import BAD_FILES, damage, make, write
from test_reader_answers import BAD_FIELDS, KEY, NO_ANSWERS, honest, rows
from tiny import write_patch_file

from histoprompt.config import check_config
from histoprompt.diffusion import open_pipeline
from histoprompt.embedding import embed_images
from histoprompt.errors import InputError
from histoprompt.files import folder_manifest, read_array, read_csv, read_json
from histoprompt.patches import PatchFile
from histoprompt.reader_study.answers import COLUMNS, read_key, read_sessions, write_answers

models, config = test_config.models, test_config.config
quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
_SECONDS = 5.0  # of computing: what a user waits on a machine that has nothing else to do


def refused(call: Callable[[], Any], folder: Path, where: str) -> InputError:
    """The error of a call that must be refused at once, in one whole message, and leave everything in a folder as it was."""
    before, started = contents(folder), time.process_time()
    with pytest.raises(InputError) as caught:
        call()
    assert time.process_time() - started < _SECONDS
    check_message(caught.value, where)
    assert contents(folder) == before
    return caught.value


def check_message(error: InputError, where: str = "") -> None:
    parts = (error.where, error.found, error.expected, error.remedy)
    assert all(part.strip() for part in parts) and where in error.where
    assert str(error) == "{}\n  found:    {}\n  expected: {}\n  to do:    {}".format(*parts)
    assert "Traceback" not in str(error) and len(str(error)) < 4000


def contents(folder: Path) -> tuple[dict[str, str], list[Path]]:
    return folder_manifest(folder), sorted(path for path in folder.rglob("*") if path.is_dir())


def bad_folders(root: Path, kind: str) -> dict[str, Any]:
    """A folder of class folders that cannot be used, and further arguments."""
    if kind == "absent":
        return {}
    make_folders(root, {"a": 10, "b": 10})
    image = root / "a/0.png" if (root / "a/0.png").exists() else next((root / "a").iterdir())
    if kind == "one class":
        shutil.rmtree(root / "b")
    elif kind == "empty class":
        (root / "c").mkdir()
    elif kind == "no classes":
        shutil.rmtree(root)
        root.mkdir()
    elif kind == "other classes":
        return {"classes": ["a", "c"]}
    elif kind == "hidden images only":
        for path in list((root / "b").iterdir()):
            path.rename(path.with_name(f".{path.name}"))
    elif kind == "truncated image":
        for path in (root / "a").iterdir():
            path.write_bytes(path.read_bytes()[:60])
    elif kind == "empty image":
        for path in (root / "a").iterdir():
            path.write_bytes(b"")
    elif kind == "text for an image":
        for path in (root / "a").iterdir():
            path.write_text("not an image")
    elif kind == "HTML for an image":
        for path in (root / "a").iterdir():
            path.write_text("<html>404 not found</html>")
    elif kind == "splits and classes mixed":
        (root / "train").mkdir()
    elif kind == "a file":
        shutil.rmtree(root)
        root.write_bytes(b"x")
    assert kind != "text for an image" or image.read_text() == "not an image"
    return {}


FOLDERS = (
    *("absent", "one class", "empty class", "no classes", "other classes", "hidden images only", "truncated image"),
    *("empty image", "text for an image", "HTML for an image", "splits and classes mixed", "a file"),
)
MORE_TABLES: list[tuple[str, bytes]] = [
    ("empty", b""),
    ("no CSV", bytes(range(128, 256))),
    ("other columns", b"file,class\na.png,x\n"),
    ("a header alone", b"path,label\n"),
    ("no label", b"path,label\na.png,\n"),
    ("no path", b"path,label\n,x\n"),
    ("a class that leaves its folder", b"path,label\na.png,../../x\nb.png,y\n"),
    ("an absolute class", b"path,label\na.png,/tmp/x\nb.png,y\n"),
    ("a class that is a folder above", b"path,label\na.png,..\nb.png,y\n"),
    ("a class with a line break", b'path,label\na.png,"x\ny"\nb.png,y\n'),
]
FILES: list[tuple[str, Callable[[Path], Any], bytes]] = [
    ("table.csv", lambda path: read_csv(path, ("row",)), b""),
    ("table.csv", lambda path: read_csv(path, ("row",)), b"a,b\n1,2\n"),
    ("table.csv", lambda path: read_csv(path, ("row",)), b'row\n"1'),
    ("report.json", read_json, b"{"),
    ("report.json", read_json, b"\xff\xfe"),
    ("features.npy", read_array, b""),
    ("features.npy", read_array, b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (9, 9), }"),
    ("features.npy", read_array, b"PK\x03\x04"),
    ("key.json", read_key, b'{"study": "tiny"}'),
    ("key.json", read_key, b"[]"),
]


def test_there_are_more_than_sixty_cases():
    tables = (BAD_STUDIES, BAD_FILES, BAD_PCAM, BAD_TABLES, MORE_TABLES, FOLDERS, DEFECTS, BAD_ENCODERS, BAD_FIELDS, NO_ANSWERS)
    cases = [(number, str(case)) for number, table in enumerate([*tables, FILES]) for case in table]
    assert len(set(cases)) == len(cases) >= 160


@pytest.mark.parametrize("case", range(len(BAD_STUDIES)), ids=lambda i: f"{BAD_STUDIES[i][0]}-{i}")
def test_studies(case: int, config: dict[str, Any], tmp_path: Path) -> None:
    key, value, _ = BAD_STUDIES[case]
    change(config, key, value)
    refused(lambda: check_config(config, schema=SCHEMA, study_file="config/mine.yaml"), tmp_path, "of config/mine.yaml")


@pytest.mark.parametrize("kind", [kind for kind, _ in BAD_FILES])
def test_hdf5(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "p.h5"
    write(path, *make(6))
    damage(path, kind)
    refused(lambda: PatchFile(path), tmp_path, str(path))


@pytest.mark.parametrize("kind", [kind for kind, _ in BAD_PCAM])
def test_pcam(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    make_pcam(root)
    spoil(root, kind)
    refused(lambda: take(tmp_path, source="pcam", root=root, classes=["h", "c"]), tmp_path, str(root))


@pytest.mark.parametrize("kind", FOLDERS)
def test_class_folders(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    arguments = bad_folders(root, kind)
    refused(lambda: take(tmp_path, source="folders", root=root, **arguments), tmp_path, str(root))


@pytest.mark.parametrize("columns", [columns for columns, _ in BAD_TABLES], ids=str)
def test_tables(columns: dict[str, Any], tmp_path: Path) -> None:
    table = make_table(tmp_path, **columns)
    refused(lambda: take(tmp_path, source="table", root=table), tmp_path, str(table))


@pytest.mark.parametrize("content", [content for _, content in MORE_TABLES], ids=[name for name, _ in MORE_TABLES])
def test_contents_of_tables(content: bytes, tmp_path: Path) -> None:
    table = make_table(tmp_path)
    table.write_bytes(content)
    refused(lambda: take(tmp_path, source="table", root=table), tmp_path, str(table))


@pytest.mark.parametrize("defect", DEFECTS)
def test_pipelines(defect: str, pipeline_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(pipeline_folder, tmp_path / "pipeline")
    DEFECTS[defect][0](folder)
    refused(lambda: open_pipeline(folder, None), tmp_path, str(folder))


@pytest.mark.parametrize("spoil_folder", [spoil_folder for spoil_folder, _ in BAD_ENCODERS])
def test_encoders(spoil_folder: Callable[[Path], None], tmp_path: Path) -> None:
    from test_embedding import IMAGENET
    from transformers import ViTConfig, ViTModel

    folder = tmp_path / "model"
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8), add_pooling_layer=False).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": 32, **IMAGENET}))
    patches = write_patch_file(tmp_path / "p.h5", 2)
    spoil_folder(folder)
    arguments: dict[str, Any] = {"model": folder, "revision": None, "batch_size": 2, "dtype": "float32", "device": "cpu"}
    refused(
        lambda: embed_images(patches, tmp_path / "f.npy", kind="transformers", threads=1, **arguments), tmp_path, str(folder)
    )


@pytest.mark.parametrize(("column", "value"), [case[:2] for case in BAD_FIELDS])
def test_readers_fields(column: str, value: str, tmp_path: Path) -> None:
    content = [[*row[:9], "", *row[10:]] for row in rows()]
    content[1][COLUMNS.index(column)] = value
    write_answers(tmp_path / "r1.csv", content)
    refused(lambda: read_sessions([tmp_path / "r1.csv"], KEY, simulated=False), tmp_path, "r1.csv")


@pytest.mark.parametrize("content", [content for content, _ in NO_ANSWERS])
def test_readers_files(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "r1.csv").write_bytes(content)
    refused(lambda: read_sessions([tmp_path / "r1.csv"], KEY, simulated=False), tmp_path, "r1.csv")


@pytest.mark.parametrize("case", range(len(FILES)))
def test_other_files(case: int, tmp_path: Path) -> None:
    name, read, content = FILES[case]
    (tmp_path / name).write_bytes(content)
    refused(lambda: read(tmp_path / name), tmp_path, name)
    (tmp_path / name).unlink()
    refused(lambda: read(tmp_path / name), tmp_path, name)


def every_key(section: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where anything is in a study."""
    inner = section.items() if isinstance(section, dict) else enumerate(section) if isinstance(section, list) else ()
    return [found for key, value in inner for found in ((*path, key), *every_key(value, (*path, key)))]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**12) | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


@quick
@given(data=st.data())
def test_a_study_with_anything_anywhere_is_checked_or_refused(data: st.DataObject, config: dict[str, Any]) -> None:
    mutant = copy.deepcopy(config)
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(every_key(mutant)))
        section = mutant
        for key in path[:-1]:
            section = section[key]
        section[path[-1]] = data.draw(ANYTHING)
    try:
        check_config(mutant, schema=SCHEMA, study_file="config/mine.yaml")
    except InputError as error:
        check_message(error)


def bytes_of_session(folder: Path) -> bytes:
    return write_session(folder / "whole.csv", make_key(), "R1", honest).read_bytes()


@quick
@given(data=st.data())
def test_damaged_files_are_refused_or_harmless(data: st.DataObject, tmp_path: Path) -> None:
    """A byte changed, or the end cut off: a patch file is refused or the same, whatever the byte; so are answers."""
    write(tmp_path / "whole.h5", *make(6))
    kind = data.draw(st.sampled_from(["h5", "csv"]))
    content = (tmp_path / "whole.h5").read_bytes() if kind == "h5" else bytes_of_session(tmp_path)
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        damaged = content[:place]
    else:
        damaged = bytes([*content[:place], content[place] ^ data.draw(st.integers(1, 255)), *content[place + 1 :]])
    path = tmp_path / f"damaged.{kind}"
    path.write_bytes(damaged)

    def read(path: Path) -> Any:
        if kind == "csv":
            return [(s.reader, s.answers[: len(s.answers)]) for s in read_sessions([path], make_key(), simulated=False)]
        with PatchFile(path) as file:
            return file.read(0, len(file)).tobytes(), file.labels.tolist(), file.ids, file.classes

    try:
        found = read(path)
    except InputError as error:
        check_message(error, str(path))
    else:
        whole = read(tmp_path / f"whole.{kind}")
        if kind == "h5":
            assert found == whole
        else:  # a session that ends early is one
            assert found[0][1] == whole[0][1][: len(found[0][1])]


def test_every_byte_of_a_patch_file_counts(tmp_path: Path) -> None:
    """Without checksums in the file itself, one flipped byte in fifteen gave other patches, labels or names, unnoticed."""
    path, damaged = tmp_path / "p.h5", tmp_path / "damaged.h5"
    write(path, *make(20))

    def read(path: Path) -> Any:
        with PatchFile(path) as file:
            return file.read(0, len(file)).tobytes(), file.labels.tolist(), file.ids, file.classes

    content, whole, noticed = path.read_bytes(), read(path), 0
    for place in range(0, len(content), 11):
        damaged.write_bytes(bytes([*content[:place], content[place] ^ (1 << place % 8), *content[place + 1 :]]))
        try:
            assert read(damaged) == whole, place
        except InputError as error:
            check_message(error, str(damaged))
            noticed += 1
    assert noticed > 0.5 * len(range(0, len(content), 11))
