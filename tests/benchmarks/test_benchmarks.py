"""Every comparison still runs and says a ratio; what the ratios are is for docs/PERFORMANCE.md, never for a test."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ONCE = ["--rounds", "1"]


def output_of(script: str, *options: str) -> str:
    done = subprocess.run([sys.executable, ROOT / "benchmarks" / script, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_embedding() -> None:
    said = output_of("embedding.py", "--patches", "8", "--batch-size", "4", *ONCE)
    assert "ratio to processor and float32 model" in said and "ratio to bare forward pass" in said


def test_sampling() -> None:
    said = output_of("sampling.py", "--batches", "1", "6", "--batch-size", "4", "--steps", "3", *ONCE)
    assert "ratio to StableDiffusionPipeline" in said


def test_training_step(tmp_path: Path) -> None:
    # diffusers' script is no part of its package, so the peer here is a process that does nothing; ours trains.
    peer = tmp_path / "peer.py"
    peer.write_text("import sys, time\ntime.sleep(int(next(w for w in sys.argv if 'max_train' in w).partition('=')[2]))\n")
    said = output_of("train_step.py", "--peer", str(peer), "--patches", "4", "--batch-size", "2", "--steps", "1", "8", *ONCE)
    assert "ratio to train_text_to_image.py" in said


@pytest.mark.parametrize("metric", ["frechet", "neighbours"])
def test_metrics(metric: str) -> None:
    assert "ratio to" in output_of("metrics.py", metric, "--images", "300", "--dimension", "16", *ONCE)


def test_scale() -> None:
    assert "filter" in output_of("scale.py", "--patches", "300", "--shards", "1")
