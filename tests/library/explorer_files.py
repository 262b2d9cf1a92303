"""Files of a study from which an explorer can be made, without any model; needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoprompt.files import write_json
from histoprompt.patches import write_patches

CLASSES = ("healthy", "cancer")
CLUSTERS = 5
TRAIN = 60
NEAR = 0.5  # below which the files say that a near copy begins


def colours(count: int, size: int, seed: int) -> np.ndarray:
    """Patches of one colour each, far enough apart to tell them after lossy compression, uint8 (count, size, size, 3)."""
    codes = (np.arange(count)[:, None] + 131 * seed) * (1, 7, 49) % 16
    return np.ascontiguousarray(np.broadcast_to((codes * 15 + 10).astype(np.uint8)[:, None, None, :], (count, size, size, 3)))


def write_explored(
    folder: Path,
    *,
    arms: tuple[str, ...] = ("label", "morphology"),
    classes: tuple[str, ...] = CLASSES,
    images: int = 90,
    mapped: int = 10**9,
    size: int = 24,
    word: str = "morphology",
) -> dict[str, Any]:
    """Write a study; returns arguments of `make_explorer`. Image n has label n mod classes; every ninth is a near copy."""
    draw = np.random.default_rng(0)
    numbers = np.arange(images)

    def patch_file(name: str, count: int, seed: int) -> Path:
        pixels, labels, ids = colours(count, size, seed), np.arange(count) % len(classes), [f"{name}-{i}" for i in range(count)]
        chunks = ((pixels[i : i + 64], labels[i : i + 64], ids[i : i + 64]) for i in range(0, count, 64))
        write_patches(folder / f"{name}.h5", chunks, classes=classes, size=size)
        return folder / f"{name}.h5"

    rows = np.flatnonzero(np.arange(TRAIN) % 7)  # every seventh patch was dropped
    train = pd.DataFrame({"row": rows, "id": [f"train-{row}" for row in rows], "label": rows % len(classes)})
    train = train.assign(cluster=rows % (CLUSTERS - 1), distance=draw.random(len(rows)))  # nothing is of the last cluster
    train.to_csv(folder / "train.csv", index=False)
    np.save(folder / "centroids.npy", np.eye(CLUSTERS, dtype=np.float32))

    places = [pd.DataFrame({"images": "test", "number": np.arange(50), "x": draw.normal(0, 3, 50), "y": draw.normal(0, 3, 50)})]
    files: dict[str, dict[str, Path]] = {"images": {}, "tables": {}, "features": {}, "nearest": {}, "reports": {}}
    for seed, name in enumerate(("real", *arms), 1):
        files["images"][name] = patch_file(name, images, seed)
        clusters = draw.integers(0, CLUSTERS, images) if name == "real" else numbers // len(classes) % CLUSTERS
        table = pd.DataFrame({"number": numbers, "label": numbers % len(classes), "cluster": clusters})
        found = (clusters + (numbers % 3 == 0)) % CLUSTERS  # of every third image another one than was asked for
        if name == "real":
            table = table.assign(row=rows[numbers % len(rows)], id=[f"train-{row}" for row in rows[numbers % len(rows)]])
        else:
            table["prompt"] = [
                f"a {classes[label]} image, {word} {c}" for label, c in zip(table["label"], clusters, strict=True)
            ]
            table["seed"] = [2**62 + 2 * number + 1 for number in numbers]
            table["file"] = [f"{name}/0/images/{number:06d}.png" for number in numbers]
            nearest = pd.DataFrame({"number": numbers, "train_row": rows[(numbers * 5 + seed) % len(rows)]})
            nearest = nearest.assign(
                distance=NEAR + np.where(numbers % 9, 0.1 + numbers / images, -0.25), held_out_nearer=numbers / images
            )
            files["nearest"][name] = folder / f"copies.{name}.csv"
            nearest.to_csv(files["nearest"][name], index=False)
            files["reports"][name] = folder / f"copies.{name}.json"
            write_json(files["reports"][name], {"near_distance": NEAR, "encoder": "dino"})
        files["tables"][name] = folder / f"{name}.csv"
        table.to_csv(files["tables"][name], index=False)
        files["features"][name] = folder / f"{name}.npy"
        np.save(
            files["features"][name],
            np.eye(CLUSTERS, dtype=np.float32)[found] + draw.normal(0, 0.02, (images, CLUSTERS)).astype(np.float32),
        )
        on_map = numbers[:mapped]
        places.append(
            pd.DataFrame(
                {"images": name, "number": on_map, "x": draw.normal(seed, 2, len(on_map)), "y": draw.normal(0, 2, len(on_map))}
            )
        )
    pd.concat(places).round(4).to_csv(folder / "map.csv", index=False)
    return {
        **files,
        "centroids_npy": folder / "centroids.npy",
        "train_csv": folder / "train.csv",
        "train_h5": patch_file("train", TRAIN, 0),
        "map_csv": folder / "map.csv",
        "page_html": folder / "explorer" / "index.html",
        "sheets_folder": folder / "explorer" / "sheets",
        "study": "mini",
        "encoder": "dino",
        "titles": {arms[0]: f"{arms[0]}: prompts of the class"},
        "naming": arms[1:],
        "own_clusters": {},
        "seed": 3,
    }
