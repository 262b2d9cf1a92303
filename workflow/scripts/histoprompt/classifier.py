"""What synthetic images are worth: a classifier trained on them, tested on every real patch of the held-out split."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from histoprompt.devices import resolve_device
from histoprompt.errors import InputError
from histoprompt.files import write_json
from histoprompt.intervals import Rows, bootstrap_macro_auc, delong, wilson_interval
from histoprompt.job import progress
from histoprompt.patches import Images, PatchFile

MODELS = ("small_cnn", "resnet34")
AUGMENTATIONS = ("flips", "rotations", "colour")
DEFAULT_AUGMENTATIONS = ("flips", "rotations")
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as torchvision's weights expect
_HELD_BYTES = 512 * 2**20  # a file of at most this size is read once and kept; of a larger one each batch is read anew
_TEST_BATCH = 250
_BOOTSTRAP_DRAWS = 1000
_CALIBRATION_BINS = 10


def small_cnn(classes: int) -> nn.Sequential:
    """A convolutional network of 0.22 M parameters: 1,500 patches of 96 px a second in training on one CPU core.

    Its stem strides by 4, so that little is left for the convolutions to do. Takes normalised images (n, 3, P, P), P >= 32.
    """
    layers: list[nn.Module] = []
    for before, after, kernel, stride in ((3, 24, 4, 4), (24, 48, 3, 2), (48, 96, 3, 2), (96, 192, 3, 2)):
        layers += [
            nn.Conv2d(before, after, kernel, stride, padding=0 if kernel == stride else 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(192, classes))


def build_model(name: str, weights: str | Path | None, classes: int, *, seed: int) -> nn.Module:
    """`small_cnn`, or torchvision's `resnet34` with a new last layer.

    Parameters
    ----------
    weights : a safetensors file of the model's own weights (its last layer is not used), or None: from scratch.
    seed : of the initial weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "small_cnn":
            model: nn.Module = small_cnn(classes)
            last = "14."
        elif name == "resnet34":
            from torchvision.models import resnet34  # costs a second, and small_cnn does without

            model = resnet34(weights=None, num_classes=classes)
            last = "fc."
        else:
            raise InputError(
                "config key `classifier.model`",
                found=name,
                expected=f"one of {', '.join(MODELS)}",
                remedy="correct the name in the config",
            )
    if weights is not None:
        _load_weights(model, weights, last)
    return model


def _load_weights(model: nn.Module, path: str | Path, last: str) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    remedy = "save the model's state_dict with safetensors.torch.save_file, or set the config key `classifier.weights` to null"
    try:
        state = {name: tensor for name, tensor in load_file(path).items() if not name.startswith(last)}
    except (OSError, SafetensorError) as error:
        raise InputError(path, found=f"no readable weights ({error})", expected="a safetensors file", remedy=remedy) from error
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(last)}
    wrong = sorted(
        name
        for name in own.keys() | state.keys()
        if name not in own or name not in state or own[name].shape != state[name].shape
    )
    if wrong:
        raise InputError(
            path,
            found=f"{len(wrong)} of {len(own)} tensors missing, unknown or of another shape, such as {wrong[0]}",
            expected="the weights of the model named under the config key `classifier.model`",
            remedy=remedy,
        )
    model.load_state_dict(state, strict=False)


def batch_rows(n: int, share: int, step: int, *, seed: int, source: int) -> Rows:
    """Rows of one source's share of a batch: a stretch of an endless row of shuffled epochs, found from the step alone.

    Parameters
    ----------
    n : images of the source.
    share : images wanted of it in every batch.
    step : from zero.
    seed, source : key of the shuffling.
    """
    places = step * share + np.arange(share)
    rows = np.empty(share, np.int64)
    for epoch in np.unique(places // n):
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, source, int(epoch)))))
        now = places // n == epoch
        rows[now] = generator.permutation(n)[places[now] % n]
    return rows


def augment(images: Images, names: Sequence[str], *, seed: int, step: int) -> Images:
    """Change each image (n, P, P, 3) by chance, keyed by seed and step.

    `flips`: either axis, each with probability one half; `rotations`: quarter turns; `colour`: each channel's contrast and
    level by up to 10 %, for the differences between stains and scanners.
    """
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, step, 1))))
    n = len(images)
    flip, turns, contrast, level = (
        generator.integers(4, size=n),
        generator.integers(4, size=n),
        generator.uniform(0.9, 1.1, size=(n, 1, 1, 3)),
        generator.uniform(-25, 25, size=(n, 1, 1, 3)),
    )
    if "flips" in names:
        for kind, axes in ((1, (1,)), (2, (2,)), (3, (1, 2))):
            images[flip == kind] = np.flip(images[flip == kind], axes)
    if "rotations" in names:
        for kind in (1, 2, 3):
            images[turns == kind] = np.rot90(images[turns == kind], kind, (1, 2))
    if "colour" in names:
        images = np.clip(images * contrast + level, 0, 255).astype(np.uint8)
    return images


class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019): the arithmetic of `torch.optim.AdamW`.

    Not torch's own, because its first use imports the compiler's machinery: 3.5 CPU-seconds, a third of this stage's budget.
    """

    def __init__(
        self, model: nn.Module, *, betas: tuple[float, float] = (0.9, 0.999), epsilon: float = 1e-8, weight_decay: float = 1e-2
    ) -> None:
        self._moments = [(weight, torch.zeros_like(weight), torch.zeros_like(weight)) for weight in model.parameters()]
        self._betas, self._epsilon, self._weight_decay = betas, epsilon, weight_decay
        self._steps = 0

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Move every weight by its gradient."""
        self._steps += 1
        rest = [1 - beta**self._steps for beta in self._betas]
        for weight, mean, square in self._moments:
            gradient = weight.grad
            assert gradient is not None  # every weight of these models takes part in the loss
            weight.mul_(1 - learning_rate * self._weight_decay)
            mean.lerp_(gradient, 1 - self._betas[0])
            square.mul_(self._betas[1]).addcmul_(gradient, gradient, value=1 - self._betas[1])
            weight.addcdiv_(mean, square.div(rest[1]).sqrt_().add_(self._epsilon), value=-learning_rate / rest[0])


def train(
    model: nn.Module, sources: Sequence[PatchFile], settings: Mapping[str, Any], *, seed: int, device: torch.device
) -> float:
    """Train for a fixed number of steps, each batch shared equally between the sources; return the mean loss of the last tenth.

    AdamW, learning rate up over the first 15 % of the steps and down a cosine to zero; no early stopping, so that every mix
    has seen equally many images.

    Parameters
    ----------
    model : on `device`.
    sources : open patch files.
    settings : `steps`, `batch_size`, `learning_rate`, and `augment` if other than `DEFAULT_AUGMENTATIONS`.
    seed : of batches and augmentation.

    Raises
    ------
    InputError : the loss is no longer finite.
    """
    steps, size = settings["steps"], settings["batch_size"]
    names = settings.get("augment", DEFAULT_AUGMENTATIONS)
    held = [source.read(0, len(source)) if len(source) * source.size**2 * 3 <= _HELD_BYTES else None for source in sources]
    optimiser = AdamW(model)
    model.train()
    losses = []
    for step in progress(range(steps), "training the classifier", unit="step"):
        images, labels = [], []
        for i, (source, kept) in enumerate(zip(sources, held, strict=True)):
            share = size // len(sources) + (i < size % len(sources))
            rows = batch_rows(len(source), share, step, seed=seed, source=i)
            images.append(source.take(rows) if kept is None else kept[rows])
            labels.append(source.labels[rows])
        batch = augment(np.concatenate(images), names, seed=seed, step=step)
        loss = nn.functional.cross_entropy(model(normalise(batch, device)), torch.from_numpy(np.concatenate(labels)).to(device))
        model.zero_grad()
        loss.backward()
        optimiser.step(settings["learning_rate"] * _one_cycle(step, steps))
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise InputError(
                "config key `classifier.learning_rate`",
                found=f"{settings['learning_rate']:g}, with which the loss is {losses[-1]} at step {step + 1}",
                expected="a training that converges",
                remedy="lower it",
            )
    return float(np.mean(losses[-max(steps // 10, 1) :]))


def _one_cycle(step: int, steps: int) -> float:
    rise = 0.15 * steps
    return min((step + 1) / rise, 1.0) if step < rise else 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise)))


def normalise(images: Images, device: torch.device) -> Tensor:
    """uint8 (n, P, P, 3) -> float32 (n, 3, P, P) on the device, channels last in memory, by ImageNet's mean and deviation."""
    mean, std = (torch.tensor(values, device=device) for values in (_MEAN, _STD))
    pixels = torch.from_numpy(images).to(device).float().div_(255).sub_(mean).div_(std)
    return pixels.permute(0, 3, 1, 2)


def predict(model: nn.Module, source: PatchFile, *, device: torch.device) -> npt.NDArray[np.float64]:
    """Class probabilities (N, classes) of every image of a file, in file order."""
    model.eval()
    with torch.inference_mode():
        chunks = [
            model(normalise(images, device)).double().softmax(1).cpu().numpy() for _, images in source.chunks(_TEST_BATCH)
        ]
    return np.concatenate(chunks)


def score(probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], *, seed: int) -> dict[str, Any]:
    """AUC with its interval, accuracy, Brier score and expected calibration error.

    AUC of two classes has DeLong's interval; beyond two it is the mean one-against-rest AUC with a stratified bootstrap
    interval. Brier is half the squared error summed over classes: (p - y)² for two. Calibration: Guo et al. 2017, bins of
    equal width.

    Parameters
    ----------
    probabilities : (N, classes).
    labels : (N,), every class present.
    seed : of the bootstrap.
    """
    n, classes = probabilities.shape
    if classes == 2:
        auc, interval = delong(probabilities[labels == 1, 1], probabilities[labels == 0, 1]), "DeLong"
    else:
        auc = bootstrap_macro_auc(probabilities, labels, draws=_BOOTSTRAP_DRAWS, seed=seed)
        interval = f"one against rest, mean over classes; {_BOOTSTRAP_DRAWS} bootstrap draws stratified by class"
    right = probabilities.argmax(1) == labels
    low, high = wilson_interval(int(right.sum()), n)
    confidence = probabilities.max(1)
    bins = np.minimum((confidence * _CALIBRATION_BINS).astype(int), _CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, right - confidence, _CALIBRATION_BINS)
    return {
        "auc": {"value": auc[0], "low": auc[1], "high": auc[2], "interval": interval},
        "accuracy": {"value": float(right.mean()), "low": low, "high": high, "interval": "Wilson"},
        "brier": float(((probabilities - np.eye(classes)[labels]) ** 2).sum(1).mean() / 2),
        "calibration_error": float(np.abs(gaps).sum() / n),
    }


def train_classifier(
    image_files: Sequence[str | Path],
    test_h5: str | Path,
    report_json: str | Path,
    *,
    mix: str,
    settings: Mapping[str, Any],
    seed: int,
    device: str,
    threads: int,
) -> None:
    """Train a classifier on a mix of image files, in equal shares, and test it on the whole unfiltered test split.

    Parameters
    ----------
    image_files : patch files to train on.
    test_h5 : the real test split.
    report_json : output: scores with intervals, numbers of images, settings.
    mix : name of the mix.
    settings : `model`, `weights`, `steps`, `batch_size`, `learning_rate`; optional `augment`, a list of `AUGMENTATIONS`.
    seed : of initial weights, batches and augmentation.
    device : auto, cpu or cuda.
    threads : of the CPU.

    Raises
    ------
    InputError : files of different classes or sizes, a class without images, unusable weights, a loss that is not finite.
    """
    torch.set_num_threads(threads)
    compute = resolve_device(device)
    with ExitStack() as stack:
        sources = [stack.enter_context(PatchFile(path)) for path in image_files]
        test = stack.enter_context(PatchFile(test_h5))
        counts = _check_files(sources, test)
        stack.enter_context(torch.backends.cudnn.flags(deterministic=True, benchmark=False))
        model = build_model(settings["model"], settings["weights"], len(test.classes), seed=seed)
        model = model.to(compute).to(memory_format=torch.channels_last)
        loss = train(model, sources, settings, seed=seed, device=compute)
        scores = score(predict(model, test, device=compute), test.labels, seed=seed)
        write_json(
            report_json,
            {
                "mix": mix,
                **scores,
                "train": {
                    "images": int(counts.sum()),
                    "by_class": dict(zip(test.classes, counts.tolist(), strict=True)),
                    "files": [len(source) for source in sources],
                    "loss": loss,
                },
                "test": {"images": len(test), "by_class": dict(zip(test.classes, _count(test).tolist(), strict=True))},
                "settings": {**settings, "augment": list(settings.get("augment", DEFAULT_AUGMENTATIONS))},
                "seed": seed,
            },
        )


def _count(source: PatchFile) -> Rows:
    counts: Rows = np.bincount(source.labels, minlength=len(source.classes))
    return counts


def _check_files(sources: Sequence[PatchFile], test: PatchFile) -> Rows:
    """Training images of each class, once the files fit together and no class is without images."""
    for source in sources:
        if source.classes != test.classes or source.size != test.size:
            raise InputError(
                source.path,
                found=f"classes {', '.join(source.classes)} at {source.size} px",
                expected=f"those of {test.path}: {', '.join(test.classes)} at {test.size} px",
                remedy="train and test on image sets of one study",
            )
    counts: Rows = np.sum([_count(source) for source in sources], axis=0)
    for numbers, where, use in ((_count(test), [test], "test"), (counts, sources, "train")):
        if not numbers.all():
            raise InputError(
                ", ".join(str(file.path) for file in where),
                found=f"no image of class {test.classes[int(numbers.argmin())]}",
                expected=f"images of every class to {use} a classifier",
                remedy="give this split patches of every class, or generate more images",
            )
    return counts
