import gzip
import hashlib
import http.server
import json
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from histoprompt.errors import InputError
from histoprompt.files import read_csv, sha256
from histoprompt.fingerprints import fingerprint, sampled_blocks
from histoprompt.folders import fit_patch, read_image, split_images
from histoprompt.importing import import_patches
from histoprompt.patches import SPLITS, PatchFile
from histoprompt.pcam import PcamFile, download_pcam, fetch_url, file_name, official_files

PCAM_MINI = Path(__file__).parents[3] / "shared/data/pcam_mini"
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
HOLDOUT = {"valid": 0.2, "test": 0.2}


def pixels(count, size=8, seed=0):
    return np.random.Generator(np.random.Philox(seed)).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def take(folder, split="train", *, source, root, patch_size=8, classes=(), seed=1):
    """Import a split; its patches (N,P,P,3), table and classes."""
    patches, table = folder / f"{split}.h5", folder / f"{split}.csv"
    import_patches(
        patches,
        table,
        source=source,
        root=root,
        split=split,
        patch_size=patch_size,
        classes=list(classes),
        holdout=HOLDOUT,
        seed=seed,
    )
    with PatchFile(patches) as file:
        rows = read_csv(table, ("id", "label", "slide"))
        assert rows["id"].tolist() == file.ids and rows["label"].tolist() == file.labels.tolist()
        return file.read(0, len(file)), rows, file.classes


def complaint(function, *args, **keywords):
    with pytest.raises(InputError) as caught:
        function(*args, **keywords)
    return str(caught.value)


def make_pcam(root, counts=(7, 4, 5), size=8, **options):
    root.mkdir(exist_ok=True)
    content = {}
    for number, (split, count) in enumerate(zip(SPLITS, counts, strict=True)):
        x, y = pixels(count, size, number), np.arange(count, dtype=np.uint8) % 2
        with h5py.File(root / file_name(split, "x"), "w") as file:
            file.create_dataset("x", data=x, **options)
        with h5py.File(root / file_name(split, "y"), "w") as file:
            file["y"] = y.reshape(-1, 1, 1, 1)
        content[split] = x, y
    return content


@pytest.mark.parametrize(
    "options", [{}, {"chunks": (3, 8, 8, 3), "compression": "lzf"}, {"chunks": (1, 4, 4, 3), "compression": "gzip"}]
)
def test_pcam_of_any_size_and_storage(tmp_path, options):
    content = make_pcam(tmp_path / "root", **options)
    for split in SPLITS:
        images, table, classes = take(tmp_path, split, source="pcam", root=tmp_path / "root", classes=["healthy", "cancer"])
        assert np.array_equal(images, content[split][0]) and table["label"].tolist() == content[split][1].tolist()
        assert table["id"][0] == f"pcam-{split}-0000000" and set(table["slide"]) == {""} and classes == ("healthy", "cancer")


def test_pcam_bytes_depend_on_content_alone(tmp_path):
    digests = []
    for name, options in [("a", {}), ("b", {"chunks": (2, 8, 8, 3), "compression": "gzip"})]:
        make_pcam(tmp_path / name, counts=(300, 2, 2), **options)
        take(tmp_path, source="pcam", root=tmp_path / name, classes=["h", "c"])
        digests.append(sha256(tmp_path / "train.h5"))
    assert digests[0] == digests[1]


def test_pcam_slides_of_its_own_tables(tmp_path):
    make_pcam(tmp_path / "root")
    rows = pd.DataFrame({"coord_y": 0, "wsi": [f"slide_{i // 3}" for i in range(7)]})
    rows.to_csv(tmp_path / "root" / file_name("train", "meta"))
    _, table, _ = take(tmp_path, source="pcam", root=tmp_path / "root", classes=["h", "c"])
    assert table["slide"].tolist() == rows["wsi"].tolist()
    rows[:-1].to_csv(tmp_path / "root" / file_name("train", "meta"))
    message = complaint(take, tmp_path, source="pcam", root=tmp_path / "root", classes=["h", "c"])
    assert "train_meta.csv" in message and "6 rows" in message and "each of 7 patches" in message


def test_pcam_patch_ids_may_be_in_any_order(tmp_path):
    make_pcam(tmp_path / "root")
    rows = pd.DataFrame(
        {
            "split": "train",
            "index": range(7),
            "kaggle_id": [f"k{i}" for i in range(7)],
            "overlap_group": [i // 2 for i in range(7)],
        }
    )
    rows = rows.assign(label=rows["index"] % 2)
    rows[::-1].to_csv(tmp_path / "root/patch_ids.csv", index=False)
    _, table, _ = take(tmp_path, source="pcam", root=tmp_path / "root", classes=["h", "c"])
    assert table["id"].tolist() == [f"k{i}" for i in range(7)] and table["slide"].tolist() == list("0011223")
    bad = {
        "6 rows": rows[:-1],
        "twice": rows.assign(kaggle_id="k"),
        "other labels": rows.assign(label=0),
        "the columns": rows.drop(columns="kaggle_id"),
    }
    for part, broken in bad.items():
        broken.to_csv(tmp_path / "root/patch_ids.csv", index=False)
        assert part in complaint(take, tmp_path, source="pcam", root=tmp_path / "root", classes=["h", "c"])


def test_pcam_patches_of_another_size_are_resized(tmp_path):
    content = make_pcam(tmp_path / "root", size=16)
    images, _, _ = take(tmp_path, source="pcam", root=tmp_path / "root", patch_size=8, classes=["h", "c"])
    assert images.shape == (7, 8, 8, 3)
    assert np.array_equal(images[3], fit_patch(content["train"][0][3], 8))


def spoil(root, kind):
    x_path, y_path = root / file_name("train", "x"), root / file_name("train", "y")
    if kind == "missing":
        (root / file_name("valid", "y")).unlink()
    elif kind == "truncated":
        x_path.write_bytes(x_path.read_bytes()[:-300])
    else:
        x, y = h5py.File(x_path)["x"][:], h5py.File(y_path)["y"][:]
        name = "x"
        if kind == "shape":
            x = x[:, :, :, 0]
        elif kind == "dtype":
            x = x.astype(np.uint16)
        elif kind == "length":
            y = y[:-1]
        elif kind == "label":
            y[5] = 2
        elif kind == "key":
            name = "images"
        elif kind == "one class":
            y[:] = 1
        with h5py.File(x_path, "w") as file:
            file[name] = x
        with h5py.File(y_path, "w") as file:
            file["y"] = y


BAD_PCAM = [
    ("missing", ["no camelyonpatch_level_2_split_valid_y.h5", "download_pcam"]),
    ("truncated", ["train_x.h5", "truncated HDF5"]),
    ("shape", ["train_x.h5", "(7, 8, 8)", "(N, P, P, 3)"]),
    ("dtype", ["train_x.h5", "uint16", "uint8"]),
    ("length", ["train_y.h5", "6 labels for 7 patches"]),
    ("label", ["train_y.h5", "row 5: 2", "{0, 1}"]),
    ("key", ["train_x.h5", "['images']", "data set `x`"]),
    ("one class", ["no patch of h in the split train"]),
]


@pytest.mark.parametrize(("kind", "parts"), BAD_PCAM)
def test_bad_pcam_roots(tmp_path, kind, parts):
    make_pcam(tmp_path / "root")
    spoil(tmp_path / "root", kind)
    message = complaint(take, tmp_path, source="pcam", root=tmp_path / "root", classes=["h", "c"])
    assert all(part in message for part in [*parts, "found:", "expected:", "to do:"]), message
    assert not list(tmp_path.glob("train.*"))


def test_pcam_has_two_classes(tmp_path):
    make_pcam(tmp_path / "root")
    assert "data.classes" in complaint(take, tmp_path, source="pcam", root=tmp_path / "root", classes=["a", "b", "c"])


@pytest.mark.skipif(not PCAM_MINI.is_dir(), reason="the real patches of pcam_mini are not beside this checkout")
def test_real_patches(tmp_path):
    images, table, _ = take(tmp_path, "test", source="pcam", root=PCAM_MINI, patch_size=96, classes=["healthy", "cancer"])
    listed = pd.read_csv(PCAM_MINI / "patch_ids.csv").query("split == 'test'")
    assert table["id"].tolist() == listed["kaggle_id"].tolist()
    assert [hashlib.sha256(image.tobytes()).hexdigest() for image in images] == listed["sha256_pixels"].tolist()


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def make_folders(root, counts, size=8, split=""):
    for number, (name, count) in enumerate(counts.items()):
        for i, image in enumerate(pixels(count, size, number)):
            save(root / split / name / f"{i:02d}.png", image)


def test_folders_are_split_by_class(tmp_path):
    root = tmp_path / "root"
    make_folders(root, {"tumour": 20, "fat": 10, "stroma": 15})
    for junk in (root / ".DS_Store", root / "fat/.DS_Store", root / "fat/Thumbs.db", root / "notes.txt"):
        junk.write_text("junk")
    tables = {}
    for split in SPLITS:
        images, table, classes = take(tmp_path, split, source="folders", root=root)
        assert classes == ("fat", "stroma", "tumour")
        for image, name, label in zip(images, table["id"], table["label"], strict=True):
            assert np.array_equal(image, np.asarray(Image.open(root / name))) and name.startswith(classes[label] + "/")
        tables[split] = table
    assert [tables[split]["label"].value_counts().sort_index().tolist() for split in SPLITS] == [
        [6, 9, 12],
        [2, 3, 4],
        [2, 3, 4],
    ]
    assert len(set().union(*(table["id"] for table in tables.values()))) == 45


def test_config_sets_the_order_of_classes(tmp_path):
    make_folders(tmp_path / "root", {"a": 10, "b": 10})
    _, table, classes = take(tmp_path, source="folders", root=tmp_path / "root", classes=["b", "a"])
    assert classes == ("b", "a") and set(table["id"][table["label"] == 0].str[0]) == {"b"}


@pytest.mark.parametrize("classes", [["a"], ["a", "b", "c"], ["a", "d"]])
def test_classes_and_folders_must_agree(tmp_path, classes):
    make_folders(tmp_path / "root", {"a": 10, "b": 10})
    message = complaint(take, tmp_path, source="folders", root=tmp_path / "root", classes=classes)
    assert "['a', 'b']" in message and "data.classes" in message


def test_folders_with_splits_of_their_own(tmp_path):
    for split, count in zip(SPLITS, (5, 2, 3), strict=True):
        make_folders(tmp_path / "root", {"a": count, "b": count}, split=split)
    for split, count in zip(SPLITS, (5, 2, 3), strict=True):
        _, table, _ = take(tmp_path, split, source="folders", root=tmp_path / "root")
        assert len(table) == 2 * count and set(table["id"].str.split("/").str[0]) == {split}
    (tmp_path / "root/valid").rename(tmp_path / "root/val")
    message = complaint(take, tmp_path, source="folders", root=tmp_path / "root")
    assert "'val'" in message and "['train', 'valid', 'test']" in message


def test_bad_folders(tmp_path):
    assert "no folder of this name" in complaint(take, tmp_path, source="folders", root=tmp_path / "absent")
    root = tmp_path / "root"
    make_folders(root, {"a": 10})
    assert "1 classes: ['a']" in complaint(take, tmp_path, source="folders", root=root)
    make_folders(root, {"b": 2})
    assert "no patch of b in the split" in complaint(take, tmp_path, source="folders", root=root)
    make_folders(root, {"b": 10})
    (root / "c").mkdir()
    assert f"{root}/c" in complaint(take, tmp_path, source="folders", root=root)
    (root / "c").rmdir()
    for name in ("a", "b"):
        for path in (root / name).iterdir():
            path.write_bytes(path.read_bytes()[:60])
    message = complaint(take, tmp_path, source="folders", root=root)
    assert ".png" in message and "no readable image" in message
    assert not list(tmp_path.glob("train.*"))


def make_table(folder, **columns):
    count = len(next(iter(columns.values()), [None] * 20)) if columns else 20
    for i, image in enumerate(pixels(count)):
        save(folder / f"images/{i}.png", image)
    rows = {"path": [f"images/{i}.png" for i in range(count)], "label": [str(i % 2) for i in range(count)], **columns}
    pd.DataFrame(rows).to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def test_table_paths_are_relative_to_it_or_absolute(tmp_path):
    folder = tmp_path / "somewhere"
    table = make_table(folder)
    rows = pd.read_csv(table)
    rows.loc[0, "path"] = str(folder / "images/0.png")
    rows.to_csv(table, index=False)
    seen = set()
    for split in SPLITS:
        images, imported, classes = take(tmp_path, split, source="table", root=table)
        assert classes == ("0", "1")
        for image, name in zip(images, imported["id"], strict=True):
            assert np.array_equal(image, np.asarray(Image.open(folder / name)))
        seen |= set(imported["id"])
    assert seen == set(rows["path"])


def test_table_with_splits_and_slides(tmp_path):
    split = ["train"] * 12 + ["valid"] * 4 + ["test"] * 4
    table = make_table(tmp_path, split=split, slide=[f"s{i // 4}" for i in range(20)])
    _, imported, _ = take(tmp_path, "valid", source="table", root=table)
    assert imported["id"].tolist() == [f"images/{i}.png" for i in range(12, 16)] and set(imported["slide"]) == {"s3"}
    table = make_table(tmp_path, split=split, slide=[f"s{i // 5}" for i in range(20)])
    message = complaint(take, tmp_path, source="table", root=table)
    assert "slides in more than one split, the first s2" in message


def test_table_with_slides_is_split_by_slide(tmp_path):
    table = make_table(tmp_path, slide=[f"s{i // 2}" for i in range(20)])
    slides = [set(take(tmp_path, split, source="table", root=table)[1]["slide"]) for split in SPLITS]
    assert [len(group) for group in slides] == [6, 2, 2] and len(set.union(*slides)) == 10


BAD_TABLES = [
    ({"split": ["train", "val"] * 10}, "the splits ['val']"),
    ({"split": ["train"] * 20}, "in the split valid (0 patches)"),
    ({"slide": ["s"] * 19 + [""]}, "no slide in line 21"),
    ({"label": ["a"] * 20}, "1 classes"),
    ({"path": ["images/1.png"] * 2 + [f"images/{i}.png" for i in range(2, 20)]}, "1 images that occur twice"),
    ({"path": ["images/1.png", "./images/1.png"] + [f"images/{i}.png" for i in range(2, 20)]}, "1 images that occur twice"),
    ({"path": [f"images/{i}.jpg" for i in range(20)]}, "do not exist"),
]


@pytest.mark.parametrize(("columns", "part"), BAD_TABLES)
def test_bad_tables(tmp_path, columns, part):
    message = complaint(take, tmp_path, source="table", root=make_table(tmp_path, **columns))
    assert part in message and "table.csv" in message


def test_tables_that_are_no_tables(tmp_path):
    table = make_table(tmp_path)
    pd.read_csv(table).rename(columns={"path": "file"}).to_csv(table, index=False)
    assert "['file', 'label']" in complaint(take, tmp_path, source="table", root=table)
    table.write_bytes(b"")
    assert "no readable CSV" in complaint(take, tmp_path, source="table", root=table)
    table.write_bytes(bytes(range(128, 256)))
    assert "no readable CSV" in complaint(take, tmp_path, source="table", root=table)
    assert "no file of this name" in complaint(take, tmp_path, source="table", root=tmp_path / "absent.csv")


@st.composite
def listings(draw):
    count = draw(st.integers(3, 80))
    rows = {
        "id": [f"i{i}" for i in range(count)],
        "class": draw(st.lists(st.sampled_from("abc"), min_size=count, max_size=count)),
    }
    if draw(st.booleans()):
        rows["slide"] = draw(st.lists(st.sampled_from("stuvwxyz"), min_size=count, max_size=count))
    return pd.DataFrame(rows)


@quick
@given(rows=listings(), seed=st.integers(0, 2**31), order=st.randoms(use_true_random=False))
def test_split_is_exhaustive_disjoint_and_free_of_the_order(rows, seed, order):
    split = split_images(rows, holdout=HOLDOUT, seed=seed)
    assert split.index.equals(rows.index) and split.isin(SPLITS).all()
    if "slide" in rows:
        assert split.groupby(rows["slide"]).nunique().max() == 1
    else:
        for _, members in split.groupby(rows["class"]):
            for name, share in HOLDOUT.items():
                assert (members == name).sum() == round(share * len(members))
    shuffled = rows.sample(frac=1, random_state=order.randrange(2**32))
    again = split_images(shuffled, holdout=HOLDOUT, seed=seed)
    assert again.reindex(rows.index).equals(split)


def test_split_depends_on_the_seed_and_moves_little_when_images_come():
    rows = pd.DataFrame({"id": [f"i{i}" for i in range(500)], "class": ["a", "b"] * 250})
    first = split_images(rows, holdout=HOLDOUT, seed=1)
    assert (split_images(rows, holdout=HOLDOUT, seed=2) != first).mean() > 0.3
    fewer = split_images(rows[:490], holdout=HOLDOUT, seed=1)
    assert (fewer != first[:490]).sum() <= 20


def test_slides_are_held_out_to_the_shares_of_each_class():
    draw = np.random.Generator(np.random.Philox(3))
    slide = draw.integers(0, 60, 3000)
    rows = pd.DataFrame({"id": np.arange(3000).astype(str), "slide": slide.astype(str)})
    rows["class"] = np.where(draw.random(3000) < slide / 60, "a", "b")
    split = split_images(rows, holdout={"valid": 0.15, "test": 0.15}, seed=5)
    shares = pd.crosstab(rows["class"], split, normalize="index")
    assert (shares["valid"] - 0.15).abs().max() < 0.04 and (shares["test"] - 0.15).abs().max() < 0.04


def test_every_mode_becomes_rgb(tmp_path):
    rgb = pixels(1)[0]
    grey = rgb[:, :, 0]
    triple = np.repeat(grey[:, :, None], 3, axis=2)
    alpha = np.dstack([rgb, np.full((8, 8), 0, np.uint8)])
    half = np.dstack([np.zeros((8, 8, 3), np.uint8), np.full((8, 8), 128, np.uint8)])
    indexed = Image.fromarray(np.eye(8, dtype=np.uint8))
    indexed.putpalette([255, 0, 0, 0, 0, 255])
    cases = {
        "rgb.png": (Image.fromarray(rgb), rgb),
        "rgb.tif": (Image.fromarray(rgb), rgb),
        "rgb.bmp": (Image.fromarray(rgb), rgb),
        "grey.png": (Image.fromarray(grey), triple),
        "grey16.png": (Image.fromarray(grey.astype(np.uint16) * 257), triple),
        "grey16.tif": (Image.fromarray(grey.astype(np.uint16) * 257), triple),
        "black.png": (Image.fromarray(grey > 127), np.where(triple > 127, 255, 0)),
        "clear.png": (Image.fromarray(alpha), np.full((8, 8, 3), 255)),
        "half.png": (Image.fromarray(half), np.full((8, 8, 3), 127)),
        "palette.gif": (indexed, np.where(np.eye(8)[:, :, None] == 1, [0, 0, 255], [255, 0, 0])),
        "cmyk.tif": (Image.fromarray(rgb).convert("CMYK"), rgb),
    }
    for name, (image, expected) in cases.items():
        image.save(tmp_path / name)
        found = read_image(tmp_path / name, 8)
        assert found.dtype == np.uint8 and found.shape == (8, 8, 3)
        assert np.abs(found.astype(int) - expected).max() <= 1, name
    palette = Image.fromarray(np.eye(8, dtype=np.uint8))
    palette.putpalette([9, 9, 9, 0, 0, 255])
    palette.save(tmp_path / "clear_palette.png", transparency=0)
    assert read_image(tmp_path / "clear_palette.png", 8)[0, 1].tolist() == [255, 255, 255]


def test_orientation_tags_are_applied(tmp_path):
    rgb = pixels(1)[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown rotated by 90 degrees clockwise
    save(tmp_path / "turned.png", rgb, exif=exif)
    assert np.array_equal(read_image(tmp_path / "turned.png", 8), np.rot90(rgb, -1))


def test_patches_are_cropped_to_the_centre_and_antialiased():
    rgb = pixels(1, 16)[0]
    wide = np.concatenate([np.zeros((16, 5, 3), np.uint8), rgb, np.zeros((16, 5, 3), np.uint8)], axis=1)
    assert fit_patch(rgb, 16) is rgb or np.array_equal(fit_patch(rgb, 16), rgb)
    assert np.array_equal(fit_patch(wide, 16), rgb)
    assert np.array_equal(fit_patch(wide.transpose(1, 0, 2), 16), rgb.transpose(1, 0, 2))
    stripes = np.zeros((96, 96, 3), np.uint8)
    stripes[:, ::2] = 255  # finer than the small patch can show: aliasing would give black or white
    inner = fit_patch(stripes, 24)[:, 2:-2].astype(int)
    assert np.abs(inner - 127).max() < 12


@pytest.mark.parametrize("kind", ["float", "32 bit", "text", "cut short", "absent", "bomb"])
def test_images_that_cannot_be_read_are_named(tmp_path, kind, monkeypatch):
    path = tmp_path / "image.tif"
    if kind == "float":
        Image.fromarray(np.ones((8, 8), np.float32)).save(path)
    elif kind == "32 bit":
        Image.fromarray(np.ones((8, 8), np.int32)).save(path)
    elif kind == "text":
        path.write_text("no image")
    elif kind == "cut short":
        save(path, pixels(1, 64)[0])
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "bomb":
        save(path, pixels(1, 64)[0])
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    message = complaint(read_image, path, 8)
    assert str(path) in message and "to do:" in message


@quick
@given(size=st.integers(1, 300_000))
def test_sampled_blocks_lie_within_the_file_and_hold_its_ends(size):
    blocks = sampled_blocks(size)
    assert blocks[0][0] == 0 and sum(blocks[-1]) == size and all(length <= 65536 for _, length in blocks)
    assert all(a[0] < b[0] for a, b in pairwise(blocks))


@quick
@given(position=st.integers(0, 399_999))
def test_fingerprint_changes_with_sampled_bytes_alone(tmp_path, position):
    path = tmp_path / file_name("train", "x")
    content = bytearray(np.random.Generator(np.random.Philox(0)).bytes(400_000))
    path.write_bytes(content)
    before = fingerprint("pcam", tmp_path)
    content[position] ^= 1
    path.write_bytes(content)
    sampled = any(offset <= position < offset + length for offset, length in sampled_blocks(len(content)))
    assert (fingerprint("pcam", tmp_path) != before) == sampled
    path.write_bytes(content + b"x")
    assert fingerprint("pcam", tmp_path) != before


def test_fingerprint_of_folders_and_tables(tmp_path):
    for source in ("pcam", "folders", "table"):
        assert fingerprint(source, tmp_path / "absent") == fingerprint(source, None) == "missing"
    assert fingerprint("table", tmp_path) == "missing"
    table = make_table(tmp_path / "data")
    roots = {"folders": tmp_path / "data", "table": table}
    before = {source: fingerprint(source, root) for source, root in roots.items()}
    shutil.copytree(tmp_path / "data", tmp_path / "copy", copy_function=shutil.copyfile)
    assert fingerprint("folders", tmp_path / "copy") == before["folders"]
    assert fingerprint("table", tmp_path / "copy/table.csv") == before["table"]
    (tmp_path / "data/.DS_Store").write_text("junk")
    assert {source: fingerprint(source, root) for source, root in roots.items()} == before
    save(tmp_path / "data/images/3.png", pixels(1, seed=9)[0])
    assert all(fingerprint(source, root) != before[source] for source, root in roots.items())


def test_fingerprint_is_cheap_to_import():
    """It is taken whenever the workflow is parsed."""
    code = "import sys, histoprompt.fingerprints; print([m for m in ('torch', 'pandas', 'h5py', 'numpy') if m in sys.modules])"
    scripts = Path(__file__).parents[2] / "workflow/scripts"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(scripts)}
    )
    assert found.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A small stand-in for PCam's record: a folder of archives and what `download_pcam` is to know of them."""
    folder = tmp_path_factory.mktemp("record")
    make_pcam(folder)
    files = []
    for split, count in zip(SPLITS, (7, 4, 5), strict=True):
        for part in "xy":
            name = file_name(split, part)
            packed = gzip.compress((folder / name).read_bytes(), mtime=0)
            (folder / f"{name}.gz").write_bytes(packed)
            files.append(PcamFile(name, hashlib.md5(packed).hexdigest(), count))
    meta = file_name("train", "meta")
    (folder / meta).write_text("wsi\n" + "slide\n" * 7)
    files.append(PcamFile(meta, hashlib.md5((folder / meta).read_bytes()).hexdigest(), 7, optional=True))
    return folder, files


@contextmanager
def server(folder, *, ranges=True, cut=None):
    """Serve `folder` on the loopback; `cut` ends every whole answer after so many bytes."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = folder / self.path.strip("/")
            asked.append((path.name, self.headers.get("Range")))
            if not path.is_file():
                return self.send_error(404)
            content = path.read_bytes()
            start = int(self.headers["Range"][6:-1]) if ranges and "Range" in self.headers else 0
            if start and start >= len(content):
                return self.send_error(416)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start : None if start else cut])

        def log_message(self, *args):
            pass

    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{http_server.server_port}", asked
    finally:
        http_server.shutdown()
        http_server.server_close()
        thread.join()


def offline(url, path):
    raise OSError("no network")


def check(folder, record, files):
    for file in files:
        assert (folder / file.name).read_bytes() == (record / file.name).read_bytes()
    manifest = json.loads((folder / "manifest.json").read_text())["files"]
    assert set(manifest) == {file.name for file in files}
    assert all(manifest[file.name]["sha256"] == sha256(record / file.name) for file in files)


def test_download_brings_everything_once(tmp_path, served):
    record, files = served
    with server(record) as (address, asked):
        download_pcam(tmp_path, files=files, source=address)
        assert len(asked) == 7
        check(tmp_path, record, files)
        assert {path.name for path in tmp_path.iterdir()} == {"manifest.json", *(file.name for file in files)}
        download_pcam(tmp_path, files=files, source=address)
        assert len(asked) == 7
    take_from = take(tmp_path, source="pcam", root=tmp_path, classes=["h", "c"])
    assert set(take_from[1]["slide"]) == {"slide"}


@pytest.mark.parametrize("ranges", [True, False])
def test_download_goes_on_after_a_break(tmp_path, served, ranges):
    record, files = served
    with server(record, ranges=ranges, cut=100) as (address, asked):
        message = complaint(download_pcam, tmp_path, files=files, source=address)
        assert "7 files of PCam are missing" in message and "the connection ended after 100 of" in message
    partial = tmp_path / f"{files[0].served}.partial"
    assert partial.stat().st_size == 100 and not (tmp_path / "manifest.json").exists()
    with server(record, ranges=ranges) as (address, asked):
        download_pcam(tmp_path, files=files, source=address)
        assert asked[0] == (files[0].served, "bytes=100-")
    check(tmp_path, record, files)


def test_a_whole_partial_file_is_not_fetched_again(tmp_path, served):
    record, files = served
    shutil.copy(record / files[0].served, tmp_path / f"{files[0].served}.partial")
    with server(record) as (address, _):
        fetch_url(f"{address}/{files[0].served}", tmp_path / f"{files[0].served}.partial")
        download_pcam(tmp_path, files=files, source=address)
    check(tmp_path, record, files)


def test_a_damaged_download_is_removed(tmp_path, served):
    _, files = served

    def fetch(url, path):
        path.write_bytes(b"a page that says: sign in")

    message = complaint(download_pcam, tmp_path, files=files, fetch=fetch)
    assert files[0].served in message and f"expected: md5 {files[0].md5}" in message
    assert list(tmp_path.iterdir()) == []


def test_offline_says_what_to_fetch_and_where_to_put_it(tmp_path, served):
    record, files = served
    shutil.copy(record / files[0].served, tmp_path)  # an archive and an unpacked file brought by hand
    shutil.copy(record / files[1].name, tmp_path)
    message = complaint(download_pcam, tmp_path, files=files, fetch=offline)
    assert "5 files of PCam are missing" in message and "no network" in message and str(tmp_path) in message
    for file in files[2:]:
        assert f"{file.served}  md5 {file.md5}  https://zenodo.org/records/2546921/files/{file.served}" in message
    assert files[0].served not in message and files[1].served not in message
    assert not (tmp_path / "manifest.json").exists()
    for file in files[2:-1]:
        shutil.copy(record / file.served, tmp_path)
    download_pcam(tmp_path, files=files, fetch=offline)  # the slides are optional
    check(tmp_path, record, files[:-1])


def test_files_brought_by_hand_are_checked(tmp_path, served):
    record, files = served
    archive = tmp_path / files[0].served
    archive.write_bytes((record / files[0].served).read_bytes()[:-1])
    assert f"expected: md5 {files[0].md5}" in complaint(download_pcam, tmp_path, files=files, fetch=offline)
    archive.unlink()
    unpacked = tmp_path / files[0].name
    unpacked.write_bytes((record / files[0].name).read_bytes()[:-50])
    assert "truncated" in complaint(download_pcam, tmp_path, files=files, fetch=offline)
    shutil.copy(record / file_name("test", "x"), unpacked)
    message = complaint(download_pcam, tmp_path, files=files, fetch=offline)
    assert "5 patches" in message and "PCam's 7" in message


def test_official_files_are_pcam():
    files = {file.name: file for file in official_files()}
    assert set(files) == {file_name(split, part) for split in SPLITS for part in ("x", "y", "meta")}
    assert all(len(file.md5) == 32 for file in files.values()) and len({file.md5 for file in files.values()}) == 9
    assert [files[file_name(split, "x")].patches for split in SPLITS] == [2**18, 2**15, 2**15]
    assert [file.name.endswith("meta.csv") for file in files.values()] == [file.optional for file in files.values()]
