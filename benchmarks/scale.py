"""Seconds and memory of the stages over all patches, at two sizes: what grows, and how.

python benchmarks/scale.py                                  # 30,000 and 300,000 patches
python benchmarks/scale.py --patches 3000 30000 --shards 2

Patches are 4,000 of the phantom's, over and over, each time mirrored or turned and in another shade, written to HDF5. Every job
is a process of its own, one after another; memory is the largest resident size of any.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from measuring import ROOT

ENCODER = ROOT / "resources/foundation/dino-vit"
DISTINCT = 4000
SPLITS = ("train", "valid", "test")


def write(folder: str, count: int) -> None:
    """Patch files and tables of the three splits, `count` patches in the first."""
    import pandas as pd

    from histoprompt.patches import write_patches
    from histoprompt.phantom import phantom_batches

    generator = np.random.default_rng(0)
    drawn = phantom_batches(DISTINCT, domain="study", split="train", slides=24, seed=1)
    originals = np.concatenate([batch.images for batch in drawn])

    def chunks(size: int, prefix: str) -> Iterator[tuple[np.ndarray, np.ndarray, list[str]]]:
        for start in range(0, size, 500):
            rows = np.arange(start, min(start + 500, size))
            images = np.rot90(originals[rows % DISTINCT], k=int(generator.integers(4)), axes=(1, 2))
            images = images[:, :, :: generator.choice([-1, 1])]
            shade = generator.uniform(0.85, 1.0, (len(rows), 1, 1, 3))
            yield (images * shade).astype(np.uint8), rows % 2, [f"{prefix}{row:07d}" for row in rows]

    for split, size in zip(SPLITS, (count, 1000, 1000), strict=True):
        write_patches(Path(folder, f"{split}.h5"), chunks(size, split), classes=["healthy", "cancer"], size=96)
        table = pd.DataFrame({"id": [f"{split}{row:07d}" for row in range(size)], "label": np.arange(size) % 2})
        table.assign(slide="").to_csv(Path(folder, f"{split}.csv"), index=False)


def filter_split(folder: str, split: str, thresholds: dict[str, float]) -> None:
    """Measure the patches and keep what the demo would keep."""
    from histoprompt.outliers import filter_outliers

    files = (Path(folder, f"{split}.{end}") for end in ("h5", "csv", "kept.csv", "dropped.csv"))
    filter_outliers(*files, thresholds=thresholds)


def embed(folder: str, split: str, number: int, shards: int) -> None:
    """Embed one shard of a split."""
    from histoprompt.embedding import embed_images

    settings = {"model": ENCODER, "revision": None, "batch_size": 200, "dtype": "bfloat16", "device": "cpu", "threads": 1}
    part = Path(folder, f"{split}.{number}.npy")
    embed_images(Path(folder, f"{split}.h5"), part, shard=(number, shards), **settings)


def gather(folder: str, split: str, shards: int) -> None:
    """Put the shards of a split together."""
    from histoprompt.arrays import gather_rows

    gather_rows([Path(folder, f"{split}.{number}.npy") for number in range(shards)], Path(folder, f"{split}.npy"))


def cluster(folder: str) -> None:
    """Fit the clusters and assign every patch."""
    from histoprompt.clustering import cluster_embeddings

    paths: Callable[[str], dict[str, Path]] = lambda end: {split: Path(folder, f"{split}.{end}") for split in SPLITS}  # noqa: E731
    cluster_embeddings(
        paths("npy"), paths("kept.csv"), paths("csv"), Path(folder, "centroids.npy"), paths("clusters.csv"),
        Path(folder, "quality.json"), k=12, n_init=10, seed=1,
    )  # fmt: skip


def _measured(queue: Any, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    started = time.perf_counter()
    work(*arguments)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    queue.put((time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20))


def measure(name: str, patches: int, jobs: list[tuple[Callable[..., None], tuple[Any, ...]]]) -> None:
    """Run jobs one after another and print what they took."""
    context = multiprocessing.get_context("spawn")
    found = []
    for work, arguments in jobs:
        queue = context.Queue()
        process = context.Process(target=_measured, args=(queue, work, arguments))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{name}: failed")
        found.append(queue.get())
    seconds, cpu, memory = zip(*found, strict=True)
    line = {"stage": name, "patches": patches, "jobs": len(jobs), "seconds": round(sum(seconds), 1), "cpu": round(sum(cpu), 1)}
    print(json.dumps(line | {"largest_gib": round(max(memory), 2)}), flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, nargs="+", default=[30_000, 300_000])
    parser.add_argument("--shards", type=int, default=8)
    options = parser.parse_args()
    thresholds = yaml.safe_load((ROOT / "config/config.yaml").read_text())["outliers"]
    for count in options.patches:
        with tempfile.TemporaryDirectory() as folder:
            measure("write", count, [(write, (folder, count))])
            measure("filter", count, [(filter_split, (folder, split, thresholds)) for split in SPLITS])
            shards = [(embed, (folder, "train", number, options.shards)) for number in range(options.shards)]
            measure("embed", count, shards)
            for split in SPLITS[1:]:
                measure("embed", 1000, [(embed, (folder, split, 0, 1))])
                measure("gather", 1000, [(gather, (folder, split, 1))])
            measure("gather", count, [(gather, (folder, "train", options.shards))])
            measure("cluster", count, [(cluster, (folder,))])


if __name__ == "__main__":
    main()
