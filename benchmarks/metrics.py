"""Our metrics against clean-fid's and the prdc package: same features, each way in a process of its own.

    python benchmarks/metrics.py frechet [--images 5000 --dimension 2048]
    python benchmarks/metrics.py neighbours [--images 20000 --dimension 64] [--alone]

Both run on as many cores as there are threads; prdc asks for eight. `--alone` measures ours only, where the peer's whole
matrices (several times 8 N² bytes) do not fit. Time is that of the metric, features in memory, without imports; memory is the
peak of the whole process.
"""

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from types import SimpleNamespace

from measuring import LIBRARY, in_turn, report

PEERS = {"frechet": "clean-fid", "neighbours": "prdc"}
DIMENSION = {"frechet": 2048, "neighbours": 64}
IMAGES = {"frechet": 5000, "neighbours": 20_000}
K = 5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("metric", choices=list(PEERS))
    parser.add_argument("--images", type=int)
    parser.add_argument("--dimension", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.images, options.dimension = options.images or IMAGES[options.metric], options.dimension or DIMENSION[options.metric]
    if options.way:
        print(json.dumps(measured(options)))
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Each way in turn, in a process of its own."""
    found: dict[str, list[dict]] = {}

    def run(way: str) -> float:
        arguments = [f"--{name}={getattr(options, name)}" for name in ("images", "dimension", "threads")]
        command = [sys.executable, __file__, options.metric, *arguments, f"--way={way}"]
        environment = os.environ | {"OMP_NUM_THREADS": str(options.threads), "PYTHONPATH": str(LIBRARY)}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        found.setdefault(way, []).append(json.loads(done.stdout.splitlines()[-1]))
        return options.images / found[way][-1]["seconds"]

    ways = ["histoprompt"] if options.alone else ["histoprompt", PEERS[options.metric]]
    result = in_turn({way: lambda way=way: run(way) for way in ways}, options.rounds)
    notes = [f"{options.images} x {options.images} images, {options.dimension} dimensions, threads: {options.threads}"]
    for way, runs in found.items():
        seconds, cpu, peak = (statistics.median(run[key] for run in runs) for key in ("seconds", "cpu", "peak_mib"))
        values = ", ".join(f"{name} {value:.8g}" for name, value in runs[-1]["values"].items())
        notes.append(f"{way}: {seconds:.2f} s, {cpu:.2f} CPU-seconds, peak {peak:.0f} MiB; {values}")
    if not options.alone:
        ours, theirs = (statistics.median(run["cpu"] for run in found[way]) for way in ways)
        notes.append(f"ratio of CPU-seconds: {theirs / ours:.2f}")
    report(f"{options.metric}, {options.images} images, {options.dimension} dimensions", result, notes)


def measured(options: argparse.Namespace) -> dict:
    """One way, once: its time, the peak memory of this process, and what it found."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    function = {"frechet": frechet, "neighbours": neighbours}[options.metric](options.way)
    real, fake = features(options)
    wall, cpu = time.perf_counter(), time.process_time()
    values = function(real, fake)
    return {
        "seconds": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "values": {name: float(value) for name, value in values.items()},
    }


def features(options: argparse.Namespace):
    """Two sets that differ a little, float32, with the decaying spectrum of an encoder's features."""
    import numpy as np

    generator = np.random.default_rng(1)
    scale = (1 / np.sqrt(np.arange(1, options.dimension + 1))).astype(np.float32)
    sets = [generator.standard_normal((options.images, options.dimension), np.float32) * scale for _ in range(2)]
    return sets[0], sets[1] + 0.1 * scale


def frechet(way: str):
    """Means, covariances and distance."""
    if way == "histoprompt":
        from histoprompt.metrics import frechet_distance, moments

        return lambda real, fake: {"distance": frechet_distance(*moments(real), *moments(fake))}
    import scipy.linalg
    from cleanfid import fid

    def sqrtm(matrix, disp=True):  # SciPy 1.18 has no `disp` any more, which clean-fid gives
        return scipy.linalg.sqrtm(matrix) if disp else (scipy.linalg.sqrtm(matrix), None)

    fid.linalg = SimpleNamespace(sqrtm=sqrtm)
    return lambda real, fake: {"distance": fid.fid_from_feats(real, fake)}


def neighbours(way: str):
    """Precision, recall, density and coverage."""
    if way == "histoprompt":
        from histoprompt.metrics import prdc

        return lambda real, fake: prdc(real, fake, K)
    from prdc import compute_prdc

    def quiet(real, fake):
        with contextlib.redirect_stdout(sys.stderr):
            return compute_prdc(real, fake, K)

    return quiet


if __name__ == "__main__":
    main()
