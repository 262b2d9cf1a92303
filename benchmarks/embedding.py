"""Our embedding against transformers' image processor and float32 model: same encoder, same patches.

    python benchmarks/embedding.py [--model FOLDER --patches 400 …]

A third figure is the bare forward pass in our precision, on pixels that are ready: nothing can be faster than that.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from measuring import in_turn, options_of, report, write_phantom


def main() -> None:
    """Measure and print."""
    parser = options_of(__doc__, model="dino-vit", batch_size=100)
    parser.add_argument("--patches", type=int, default=1000)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(options, Path(folder))


def measure(options: argparse.Namespace, folder: Path) -> None:
    """The model is loaded once for all rounds; every way reads the patches from their file."""
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor

    from histoprompt.embedding import embed_batches, load_encoder
    from histoprompt.patches import PatchFile

    torch.set_num_threads(options.threads)
    source = write_phantom(folder, options.patches)
    device = torch.device(options.device)
    encoder = load_encoder(options.model, None, device=device, dtype=options.dtype)
    full = load_encoder(options.model, None, device=device, dtype="float32").network
    processor = AutoImageProcessor.from_pretrained(options.model)
    found: dict[str, np.ndarray] = {}

    def timed(name: str, features) -> float:
        started = time.perf_counter()
        found[name] = np.concatenate(list(features))
        return options.patches / (time.perf_counter() - started)

    def ours():
        with PatchFile(source) as patches:
            yield from embed_batches(encoder, patches, options.batch_size, range(0, len(patches), options.batch_size))

    @torch.inference_mode()
    def theirs():
        with PatchFile(source) as patches:
            for start in range(0, options.patches, options.batch_size):
                images = [Image.fromarray(image) for image in patches.read(start, start + options.batch_size)]
                yield full(processor(images, return_tensors="pt")["pixel_values"].to(device)).cpu().numpy()

    size = (options.batch_size, 3, encoder.preprocessing.height, encoder.preprocessing.width)
    pixels = torch.randn(size, device=device)

    @torch.inference_mode()
    def bare():
        for _ in range(0, options.patches, options.batch_size):
            with torch.autocast(device.type, encoder.dtype, enabled=encoder.dtype != torch.float32):
                yield encoder.network(pixels).float().cpu().numpy()

    ways = {"histoprompt": ours, "processor and float32 model": theirs, "bare forward pass": bare}
    for way in ways.values():
        next(iter(way()))  # warm
    result = in_turn({name: lambda name=name, way=way: timed(name, way()) for name, way in ways.items()}, options.rounds)
    mine, reference = found["histoprompt"], found["processor and float32 model"]
    cosine = (mine * reference).sum(1) / np.linalg.norm(mine, axis=1) / np.linalg.norm(reference, axis=1)
    notes = [f"{options.patches} patches, {options.dtype}, batch {options.batch_size}, threads: {options.threads}"]
    notes += [f"cosine of our features and the reference's: mean {cosine.mean():.5f}, least {cosine.min():.5f}"]
    report(f"embedding, {options.model.name}, {encoder.preprocessing.height} px", result, notes)


if __name__ == "__main__":
    main()
