"""The embedded evaluation encoder: a small supervised ResNet, of another family and training than the embedder."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from histoprompt.devices import resolve_device
from histoprompt.files import atomic, write_json
from histoprompt.foundation.training import anneal, device_name, flips, load_images, restain, save_half, steps
from histoprompt.foundation.vision_transformer import MEAN, STD
from histoprompt.phantom import MORPHOLOGIES


def train_residual_network(
    tissue_npy: str | Path,
    table_csv: str | Path,
    model_folder: str | Path,
    report_json: str | Path,
    *,
    hidden_sizes: list[int],
    depths: list[int],
    training_steps: int,
    batch_size: int,
    learning_rate: float,
    seconds: float | None,
    seed: int,
    device: str,
    threads: int,
) -> None:
    """Train to name the phantom's morphologies and, where there are real patches, PCam's two labels as two more classes."""
    place = resolve_device(device)
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    generator = torch.Generator(place).manual_seed(seed)
    images, table = load_images(tissue_npy, place), pd.read_csv(table_csv)
    names = [*MORPHOLOGIES, "pcam_healthy", "pcam_cancer"]
    real = (table["source"] == "pcam").to_numpy()
    classes = np.where(real, len(MORPHOLOGIES) + table["label"], table["morphology"])
    held_out = np.arange(len(table)) % 20 == 0
    targets = torch.from_numpy(classes.astype(np.int64)).to(place)
    train = torch.from_numpy(np.flatnonzero(~held_out)).to(place)
    config = ResNetConfig(
        embedding_size=hidden_sizes[0] // 2,
        hidden_sizes=hidden_sizes,
        depths=depths,
        layer_type="basic",
        id2label=dict(enumerate(names)),
        label2id={n: i for i, n in enumerate(names)},
    )
    model = ResNetForImageClassification(config)
    model = model.to(place, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=0.05)
    started, done = time.monotonic(), 0
    for step, share in steps(training_steps, "residual network", seconds):
        anneal(optimiser, learning_rate, share, step, 60)
        rows = train[torch.randint(len(train), (batch_size,), generator=generator, device=place)]
        pixels = restain(flips(images[rows].float() / 255, generator), generator, grey=0.05)
        with torch.autocast(place.type, torch.bfloat16, enabled=place.type == "cuda"):
            logits = model(((pixels - MEAN) / STD).contiguous(memory_format=torch.channels_last)).logits
        loss = F.cross_entropy(logits.float(), targets[rows], label_smoothing=0.05)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        done = step + 1
        if done % 500 == 0:
            print(f"step {done} loss {loss.item():.3f}", flush=True)
    trained = time.monotonic() - started
    model.eval()
    tested = np.flatnonzero(held_out)
    with torch.no_grad():
        pixels = (images[torch.from_numpy(tested).to(place)].float() / 255 - MEAN) / STD
        guess = torch.cat([model(part).logits.argmax(1) for part in pixels.split(250)]).cpu().numpy()
    right = guess == classes[tested]
    scores = {"phantom_accuracy": round(float(right[~real[tested]].mean()), 4)}
    if real.any():
        scores["pcam_accuracy"] = round(float(right[real[tested]].mean()), 4)
    with atomic(model_folder) as temporary:
        save_half(model.resnet, temporary)
        ViTImageProcessor(
            size={"height": 96, "width": 96}, image_mean=[MEAN] * 3, image_std=[STD] * 3, resample=2
        ).save_pretrained(temporary)
    write_json(
        report_json,
        {
            "steps": done,
            "seconds": round(trained, 1),
            "device": device_name(place),
            "batch_size": batch_size,
            "held_out": scores,
            "parameters": sum(p.numel() for p in model.resnet.parameters()),
        },
    )
