"""The embedded embedder: a small ViT trained by self-distillation (DINO, Caron et al. 2021, arXiv 2104.14294)."""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from histoprompt.devices import resolve_device
from histoprompt.files import atomic, write_json
from histoprompt.foundation.training import anneal, device_name, follow, load_images, restain, save_half, steps

MEAN, STD = 0.7, 0.25  # of the pixels, 0-1: stained tissue is bright


class Head(nn.Module):
    """DINO's projection head: an MLP, then cosine similarity with the prototypes."""

    def __init__(self, width: int, prototypes: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 64))
        self.prototypes = nn.Parameter(torch.randn(prototypes, 64) * 0.02)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.05)
                nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(B,width) to (B,prototypes) cosines."""
        return F.linear(F.normalize(self.mlp(features), dim=-1), F.normalize(self.prototypes, dim=-1))


def view(images: Tensor, size: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """A random square crop of `low` to `high` of the area, turned, flipped, restained and resized to `size` pixels."""
    count, device = len(images), images.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device)

    side = (low + (high - low) * uniform(count)).sqrt()
    quarter = (uniform(count) * 4).floor() * (math.pi / 2)
    mirror = (uniform(count) < 0.5).float() * 2 - 1
    cos, sin = quarter.cos() * side, quarter.sin() * side
    x, y = ((uniform(count) * 2 - 1) * (1 - side) for _ in range(2))
    matrix = torch.stack([torch.stack([cos * mirror, -sin, x], 1), torch.stack([sin * mirror, cos, y], 1)], 1)
    grid = F.affine_grid(matrix, [count, 3, size, size], align_corners=False)
    crop = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return (restain(crop, generator, strength=2.5, grey=0.4) - MEAN) / STD


def train_vision_transformer(
    tissue_npy: str | Path,
    table_csv: str | Path,
    model_folder: str | Path,
    report_json: str | Path,
    *,
    image_size: int,
    width: int,
    depth: int,
    heads: int,
    prototypes: int,
    local_views: int,
    training_steps: int,
    batch_size: int,
    learning_rate: float,
    seconds: float | None,
    seed: int,
    device: str,
    threads: int,
) -> None:
    """Train a ViT with patch 8 on tissue without labels, on crops of `image_size` and half of it; save the teacher."""
    place = resolve_device(device)
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    generator = torch.Generator(place).manual_seed(seed)
    images, table = load_images(tissue_npy, place), pd.read_csv(table_csv)
    config = ViTConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        image_size=image_size,
        patch_size=8,
    )
    student = ViTModel(config).to(place)
    head = Head(width, prototypes).to(place)
    teacher, teacher_head = copy.deepcopy(student).requires_grad_(False), copy.deepcopy(head).requires_grad_(False)
    decayed = [p for m in (student, head) for p in m.parameters() if p.ndim > 1]
    plain = [p for m in (student, head) for p in m.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.04}, {"params": plain, "weight_decay": 0.0}], learning_rate
    )
    centre = torch.zeros(1, prototypes, device=place)

    def features(model: nn.Module, pixels: Tensor) -> Tensor:
        return model(pixels, interpolate_pos_encoding=pixels.shape[-1] != image_size).last_hidden_state[:, 0]

    started, done = time.monotonic(), 0
    for step, share in steps(training_steps, "vision transformer", seconds):
        anneal(optimiser, learning_rate, share, step, 60)
        batch = images[torch.randint(len(images), (batch_size,), generator=generator, device=place)].float() / 255
        wide = torch.cat([view(batch, image_size, 0.4, 1.0, generator) for _ in range(2)])
        narrow = torch.cat([view(batch, image_size // 2, 0.08, 0.35, generator) for _ in range(local_views)])
        with torch.autocast(place.type, torch.bfloat16, enabled=place.type == "cuda"):
            with torch.no_grad():
                taught = teacher_head(features(teacher, wide)).float()
            learned = torch.cat([head(features(student, wide)), head(features(student, narrow))]).float()
        target = F.softmax((taught - centre) / 0.04, -1).view(2, batch_size, -1)
        centre = 0.9 * centre + 0.1 * taught.mean(0, keepdim=True)
        guess = F.log_softmax(learned / 0.1, -1).view(2 + local_views, batch_size, -1)
        pairs = [-(target[i] * guess[j]).sum(-1).mean() for i in range(2) for j in range(2 + local_views) if i != j]
        loss = torch.stack(pairs).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*student.parameters(), *head.parameters()], 3.0)
        optimiser.step()
        decay = 1 - 0.01 * 0.5 * (1 + math.cos(math.pi * share))
        follow(teacher.parameters(), student.parameters(), decay)
        follow(teacher_head.parameters(), head.parameters(), decay)
        done = step + 1
        if done % 250 == 0:
            usage = target.mean((0, 1))
            spread = torch.exp(-(usage * (usage + 1e-9).log()).sum()).item()
            print(
                f"step {done} loss {loss.item():.3f} prototypes in use {spread:.0f}",
                flush=True,
            )
    trained = time.monotonic() - started
    scores = _score(teacher, images, table, image_size)
    with atomic(model_folder) as temporary:
        save_half(teacher, temporary)
        ViTImageProcessor(
            size={"height": image_size, "width": image_size}, image_mean=[MEAN] * 3, image_std=[STD] * 3, resample=2
        ).save_pretrained(temporary)
    write_json(
        report_json,
        {
            "steps": done,
            "seconds": round(trained, 1),
            "device": device_name(place),
            "batch_size": batch_size,
            "training_set": scores,
            "parameters": sum(p.numel() for p in teacher.parameters()),
        },
    )


@torch.no_grad()
def _score(model: nn.Module, images: Tensor, table: pd.DataFrame, size: int) -> dict[str, float]:
    """Agreement of k-means (k = 11) with the phantom's morphologies, on training patches."""
    model.eval()
    rows = np.flatnonzero(table["source"] == "phantom")[:3000]
    pixels = images[torch.from_numpy(rows).to(images.device)].float() / 255
    pixels = (F.interpolate(pixels, size=size, mode="bilinear", antialias=True) - MEAN) / STD
    features = torch.cat([model(part).last_hidden_state[:, 0] for part in pixels.split(250)]).float().cpu().numpy()
    truth = table["morphology"].to_numpy()[rows]
    found = KMeans(11, n_init=5, random_state=0).fit_predict(features)
    return {"nmi": round(normalized_mutual_info_score(truth, found), 4), "ari": round(adjusted_rand_score(truth, found), 4)}
