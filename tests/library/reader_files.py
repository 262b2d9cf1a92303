"""Files of a study from which a reader study can be made, without any model; needs no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from histoprompt.patches import write_patches

CLASSES = ("healthy", "cancer")
CLUSTERS = 5


def noise(count: int, size: int, seed: int) -> np.ndarray:
    """uint8 (count, size, size, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def write_study(
    folder: Path,
    *,
    arms: tuple[str, ...] = ("label", "morphology"),
    classes: tuple[str, ...] = CLASSES,
    test: int = 80,
    samples: int = 80,
    size: int = 8,
    full_size: int = 16,
) -> dict[str, Any]:
    """Write a study; returns arguments of `make_reader_study` for 16 images. Every seventh test patch was dropped."""
    generator = np.random.default_rng(0)

    def patch_file(name: str, count: int, seed: int) -> Path:
        ids = [f"{name}-{i}" for i in range(count)]
        path = folder / f"{name}.h5"
        chunks = [(noise(count, size, seed), np.arange(count) % len(classes), ids)]
        write_patches(path, chunks, classes=classes, size=size)
        return path

    rows = np.flatnonzero(np.arange(test) % 7)
    clusters = pd.DataFrame({"row": rows, "label": rows % len(classes), "cluster": generator.integers(0, CLUSTERS, len(rows))})
    clusters.to_csv(folder / "clusters.csv", index=False)
    np.save(folder / "centroids.npy", np.eye(CLUSTERS, dtype=np.float32))
    for arm in arms:
        (folder / arm).mkdir()
        sums = []
        for number, image in enumerate(noise(samples, full_size, len(arm))):
            path = folder / arm / f"{number}.png"
            Image.fromarray(image).save(path)
            sums.append(hashlib.sha256(path.read_bytes()).hexdigest())
        numbers = np.arange(samples)
        table = pd.DataFrame({"number": numbers, "label": numbers % len(classes), "sha256": sums})
        table.assign(file=[f"{arm}/{i}.png" for i in numbers]).to_csv(folder / f"{arm}.csv", index=False)
        nearest = np.eye(CLUSTERS, dtype=np.float32)[numbers % CLUSTERS]
        np.save(folder / f"{arm}.npy", nearest + generator.normal(0, 0.05, nearest.shape).astype(np.float32))
    return {
        "test_h5": patch_file("test", test, 1),
        "clusters_csv": folder / "clusters.csv",
        "centroids_npy": folder / "centroids.npy",
        "samples_h5": [patch_file(arm, samples, 2 + i) for i, arm in enumerate(arms)],
        "samples_csv": [folder / f"{arm}.csv" for arm in arms],
        "features_npy": [folder / f"{arm}.npy" for arm in arms],
        "page_html": folder / "page/index.html",
        "key_json": folder / "key.json",
        "study": "mini",
        "seed": 7,
        "arms": list(arms),
        "images": 16,
        "blocks": 2,
        "repeats": 3,
        "training": 4,
        "display": "matched",
        "size": 320,
        "diagnosis": True,
    }
