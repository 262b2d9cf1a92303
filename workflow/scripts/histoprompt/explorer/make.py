"""The explorer: a page of data, and sheets of small pictures beside it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from histoprompt.errors import InputError
from histoprompt.files import atomic, read_csv, read_json
from histoprompt.intervals import Rows
from histoprompt.job import progress
from histoprompt.metrics import check_count, check_width, load_features, nearest_centroid
from histoprompt.pages import assemble, json_in_html, text_of
from histoprompt.patches import Images, PatchFile
from histoprompt.resizing import resize_images
from histoprompt.subset import COLUMNS, draw_sample

PAGE = Path(__file__).with_name("page")
REAL, HELD_OUT, TRAIN = "real", "test", "train"
MOST_IMAGES = 10_000  # of all sets together, about as many points as a map can show apart; 50 MB at 96 pixels
LARGEST_SIDE = 128  # pixels of a picture: a larger patch is shown smaller, so that a study of 512 pixels weighs no more
SHEET_COLUMNS = 8  # pictures a side of a sheet: small enough that a browser decodes one in a few milliseconds
_BLOCK = 16  # pixels: WebP compresses squares of this size, and a picture must not share one with its neighbour
_QUALITY, _METHOD = 90, 2  # of WebP: 3 grey levels off on average; a slower method saves 3 % of the bytes
_SCRIPTS = ("sheets.js", "state.js", "gallery.js", "map.js", "detail.js", "page.js")
_AGAIN = "delete it and run the same command again"


def make_explorer(
    images: Mapping[str, str | Path],
    tables: Mapping[str, str | Path],
    features: Mapping[str, str | Path],
    nearest: Mapping[str, str | Path],
    reports: Mapping[str, str | Path],
    centroids_npy: str | Path,
    train_csv: str | Path,
    train_h5: str | Path,
    map_csv: str | Path,
    page_html: str | Path,
    sheets_folder: str | Path,
    *,
    study: str,
    encoder: str,
    titles: Mapping[str, str],
    naming: Collection[str],
    own_clusters: Mapping[str, str],
    seed: int,
) -> None:
    """Write a page that shows real and synthetic images side by side and on a map, each with all that is known of it.

    The page holds everything but the pictures, so that it needs no other program; a picture's place follows from its place in
    its set: 64 a sheet, row by row.

    Parameters
    ----------
    images : image set -> its patch file, in the order of the columns; `real` is among them, and all others are arms.
    tables : image set -> `number,label,cluster`; of an arm also `prompt,seed,file`, of real patches `row,id`.
    features : image set -> features (N, d) of the encoder whose clusters the study uses.
    nearest, reports : arm -> its nearest training patches and what distance makes a near copy: the files that
        `memorisation.find_copies` writes.
    centroids_npy : of the study's clusters, (k, d).
    train_csv, train_h5 : the kept patches of the train split, `row,id,label,cluster,distance`, and its patch file; the patch
        nearest to a cluster's centre stands for it.
    map_csv : places of images and of held-out patches, `images,number,x,y`, as `coverage_map.draw_coverage_map` writes them.
    page_html, sheets_folder : written; the page looks for the folder beside itself.
    study, encoder : its name, and the encoder from whose features its clusters were made.
    titles : what the page calls image sets; the others go by their names.
    naming : arms whose prompts say which cluster is asked for.
    own_clusters : arm -> what its clusters are, where they are not the study's.
    seed : of the draw, where there are more images than a page can show: the same images that the map shows.

    Raises
    ------
    InputError : files that do not belong together.
    """
    places = read_csv(map_csv, ("images", "number", "x", "y"))
    train = read_csv(train_csv, (*COLUMNS, "distance"))
    centroids = load_features(centroids_npy)
    drawn: dict[str, pd.DataFrame] = {}
    for name, path in images.items():
        vectors = load_features(features[name])
        check_width(features[name], vectors, centroids_npy, centroids)
        table = _read_table(path, tables[name], nearest.get(name))
        check_count(features[name], len(vectors), tables[name], len(table))
        # Real patches keep the cluster that k-means gave them.
        table["found"] = table["cluster"] if name == REAL else nearest_centroid(vectors, centroids)
        table = table.iloc[draw_sample(len(table), MOST_IMAGES // len(images), seed=seed)]
        table = table.sort_values(["label", "cluster", "number"], kind="stable")
        drawn[name] = table.merge(places.loc[places["images"] == name, ["number", "x", "y"]], on="number", how="left")
    patches, examples = _training_patches([drawn[arm] for arm in nearest], train, train_csv)
    prompts = sorted({prompt for arm in nearest for prompt in drawn[arm]["prompt"]})
    held_out = places[places["images"] == HELD_OUT]
    with PatchFile(images[REAL]) as file:
        classes, size = file.classes, file.size
    shown = {
        "study": study,
        "encoder": encoder,
        "classes": list(classes),
        "clusters": len(centroids),
        "size": size,
        "side": min(size, LARGEST_SIDE),
        "cell": cell_of(min(size, LARGEST_SIDE)),
        "margin": margin_of(min(size, LARGEST_SIDE)),
        "sheetColumns": SHEET_COLUMNS,
        "examples": [examples.get(cluster) for cluster in range(len(centroids))],
        "prompts": prompts,
        "training": {name: patches[name].tolist() for name in COLUMNS},
        "heldOut": {axis: held_out[axis].tolist() for axis in ("x", "y")},
        "sets": [
            {
                "name": name,
                "title": titles.get(name, name),
                "namesCluster": name in naming,
                "ownClusters": own_clusters.get(name),
                **_nearness(reports.get(name)),
                "images": _columns(table, prompts, patches["row"].tolist()),
            }
            for name, table in drawn.items()
        ],
    }
    pictures = {name: (images[name], table["place"].to_numpy(np.int64)) for name, table in drawn.items()}
    pictures[TRAIN] = (train_h5, patches["row"].to_numpy(np.int64))
    with atomic(sheets_folder) as temporary:
        temporary.mkdir()
        for name, (path, rows) in progress(pictures.items(), "sheets of pictures", unit="set"):
            _write_sheets(temporary, name, path, rows)
    with atomic(page_html) as temporary:
        temporary.write_text(assemble_page(shown), encoding="utf-8", newline="\n")


def cell_of(side: int) -> int:
    """Pixels from one picture of a sheet to the next: whole blocks, with a margin: decoders smooth colours over edges."""
    return -(-(side + 2) // _BLOCK) * _BLOCK


def margin_of(side: int) -> int:
    """Pixels from the edge of a cell to its picture."""
    return (cell_of(side) - side) // 2


def sheet_of(pictures: Images) -> Image.Image:
    """A sheet of at most 64 pictures, row by row; the margins of a cell repeat its picture's edges.

    Parameters
    ----------
    pictures : uint8 (n, side, side, 3).
    """
    count, side = pictures.shape[:2]
    cell, before, rows = cell_of(side), margin_of(side), -(-count // SHEET_COLUMNS)
    margins = (before, cell - side - before)
    padded = np.pad(pictures, ((0, 0), margins, margins, (0, 0)), mode="edge")
    cells = np.zeros((rows * SHEET_COLUMNS, cell, cell, 3), np.uint8)
    cells[:count] = padded
    grid = cells.reshape(rows, SHEET_COLUMNS, cell, cell, 3).transpose(0, 2, 1, 3, 4)
    return Image.fromarray(grid.reshape(rows * cell, SHEET_COLUMNS * cell, 3))


def assemble_page(shown: Mapping[str, Any]) -> str:
    """The page's HTML.

    Parameters
    ----------
    shown : all that its program reads.
    """
    title = text_of(PAGE)["title"].replace("{study}", shown["study"])
    # A file has no origin to be the same as, in some browsers: hence the scheme beside 'self'.
    return assemble(PAGE, _SCRIPTS, title=title, images="'self' file: data:", data=json_in_html(shown))


def _read_table(images_h5: str | Path, table_csv: str | Path, nearest_csv: str | Path | None) -> pd.DataFrame:
    """The table of an image set, with the `place` of each image in its file and, of an arm, its nearest training patch."""
    table = read_csv(table_csv, ("number", "label", "cluster"))
    with PatchFile(images_h5) as file:
        if len(table) != len(file) or (table["label"].to_numpy() != file.labels).any():
            raise InputError(
                table_csv,
                found="images or labels that are not those of its file",
                expected=f"those of {images_h5}",
                remedy=_AGAIN,
            )
    if nearest_csv is not None:
        nearest = read_csv(nearest_csv, ("number", "train_row", "distance", "held_out_nearer"))
        if not nearest["number"].equals(table["number"]):
            raise InputError(nearest_csv, found="other images", expected=f"those of {table_csv}", remedy=_AGAIN)
        table = table.join(nearest.drop(columns="number"))
    return table.assign(place=np.arange(len(table)))


def _training_patches(
    arms: Sequence[pd.DataFrame], train: pd.DataFrame, train_csv: str | Path
) -> tuple[pd.DataFrame, dict[int, int]]:
    """The training patches that the page shows, and cluster -> the place among them of the one nearest to its centre."""
    typical = train.sort_values(["distance", "row"]).drop_duplicates("cluster")
    nearest = np.concatenate([table["train_row"].to_numpy(np.int64) for table in arms])
    if not np.isin(nearest, train["row"]).all():
        raise InputError(
            train_csv, found="not all patches that images are nearest to", expected="all kept training patches", remedy=_AGAIN
        )
    patches = train[train["row"].isin(nearest) | train["row"].isin(typical["row"])].sort_values("row")
    places = np.searchsorted(patches["row"], typical["row"]).tolist()
    return patches, dict(zip(typical["cluster"].tolist(), places, strict=True))


def _nearness(report_json: str | Path | None) -> dict[str, Any]:
    """Below which distance an image is a near copy, and in which encoder's features."""
    report = {} if report_json is None else read_json(report_json)
    return {"near": report.get("near_distance"), "space": report.get("encoder")}


def _columns(table: pd.DataFrame, prompts: Sequence[str], patches: Sequence[int]) -> dict[str, list[Any]]:
    """What the page knows of each image: a list a column. Seeds are text: they have more digits than a browser's numbers."""
    columns = {
        "number": table["number"].tolist(),
        "label": table["label"].tolist(),
        "asked": table["cluster"].tolist(),
        "found": table["found"].tolist(),
        "x": _or_null(table["x"]),
        "y": _or_null(table["y"]),
    }
    if "train_row" not in table:
        return columns | {"row": table["row"].tolist(), "id": table["id"].tolist()}
    return columns | {
        "prompt": np.searchsorted(prompts, table["prompt"].tolist()).tolist(),
        "seed": [str(seed) for seed in table["seed"]],
        "file": table["file"].tolist(),
        "nearest": np.searchsorted(patches, table["train_row"]).tolist(),
        "distance": table["distance"].round(4).tolist(),
        "heldOutNearer": table["held_out_nearer"].round(4).tolist(),
    }


def _or_null(values: pd.Series[float]) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values.tolist()]


def _write_sheets(folder: Path, name: str, path: str | Path, rows: Rows) -> None:
    with PatchFile(path) as file:
        for number, pictures in enumerate(_pictures(file, rows)):
            sheet_of(pictures).save(folder / f"{name}-{number}.webp", quality=_QUALITY, method=_METHOD)


def _pictures(file: PatchFile, rows: Rows) -> Iterator[Images]:
    for start in range(0, len(rows), SHEET_COLUMNS**2):
        yield resize_images(file.take(rows[start : start + SHEET_COLUMNS**2]), min(file.size, LARGEST_SIDE))
