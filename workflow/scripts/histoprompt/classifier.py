"""What synthetic images are worth: a classifier trained on them, tested on every real patch of the held-out split."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from histoprompt.devices import resolve_device
from histoprompt.errors import InputError
from histoprompt.files import atomic, read_csv, write_json
from histoprompt.intervals import Rows
from histoprompt.job import progress
from histoprompt.patches import Images, Labels, PatchFile
from histoprompt.scores import score
from histoprompt.sources import ImageSource, at_most, open_images

MODELS = ("small_cnn", "resnet34")
AUGMENTATIONS = ("flip", "rotate90", "colour")
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as torchvision's weights expect
_HELD_BYTES = 512 * 2**20  # a file of at most this size is read once and kept; of a larger one each batch is read anew
_TEST_BATCH = 250
_JITTER = 0.1  # stains and light are changed by up to a tenth


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


class ImagePool:
    """Images to train on or to test on: some rows of an image set, in an order of one's own. The one place that reads pixels.

    Attributes
    ----------
    file : the open image set.
    rows : its rows, (N,).
    labels : of the images, (N,).
    """

    def __init__(self, file: ImageSource, rows: Rows | None = None) -> None:
        self.file = file
        self.rows: Rows = np.arange(len(file)) if rows is None else rows
        self.labels: Labels = file.labels[self.rows]
        self._kept = file.take(self.rows) if len(self) * file.size**2 * 3 <= _HELD_BYTES else None

    def __len__(self) -> int:
        return self.rows.size

    def take(self, places: Rows) -> Images:
        """The images at these places of the pool: uint8 (n, P, P, 3)."""
        return self.file.take(self.rows[places]) if self._kept is None else self._kept[places]

    def first(self, n: int) -> ImagePool:
        """The pool of the first n images, which shares their pixels."""
        part = copy(self)
        part.rows, part.labels = self.rows[:n], self.labels[:n]
        part._kept = None if self._kept is None else self._kept[:n]
        return part

    def count(self) -> Rows:
        """Images of each class."""
        counts: Rows = np.bincount(self.labels, minlength=len(self.file.classes))
        return counts


def nested_order(labels: Labels, *, seed: int) -> Rows:
    """A shuffled order of items whose first n are, for every n, a draw stratified by label: each draw holds the smaller ones.

    Item r of the N_c of its class, in shuffled order, stands at (r + 1/2) / N_c. So the first n share their places among
    classes by Sainte-Laguë's method: of two classes neither is ever a whole item away from its share.

    Parameters
    ----------
    labels : (N,).
    seed : of the shuffling.
    """
    places = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, int(label), 0, 2))))
        places[members[generator.permutation(members.size)]] = (np.arange(members.size) + 0.5) / members.size
    order: Rows = np.lexsort((labels, places))
    return order


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
    """Change each image (n, P, P, 3) by chance; what happens to image i of a step depends on seed, step and i alone.

    `flip`: left and right exchanged with probability one half, and so top and bottom. `rotate90`: none to three quarter turns.
    `colour`: the amounts of haematoxylin, eosin and the rest, and the light, each by up to 10 %.
    """
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, step, 0, 1))))
    draws = generator.random((len(images), 7))
    if "flip" in names:
        for column, axis in ((0, 2), (1, 1)):
            chosen = draws[:, column] < 0.5
            images[chosen] = np.flip(images[chosen], axis)
    if "rotate90" in names:
        turns = np.floor(4 * draws[:, 2])
        for quarters in (1, 2, 3):
            chosen = turns == quarters
            images[chosen] = np.rot90(images[chosen], quarters, (1, 2))
    if "colour" in names:
        factors = 1 + _JITTER * (2 * draws[:, 3:] - 1)
        images = restain(images, factors[:, :3], factors[:, 3])
    return images


def restain(images: Images, stains: npt.NDArray[np.float64], light: npt.NDArray[np.float64]) -> Images:
    """Multiply the amounts of haematoxylin, eosin and the rest by `stains` (n, 3), and the light by `light` (n,).

    Optical density is linear in the amounts of stain (Ruifrok & Johnston 2001, their three vectors); jitter of these amounts is
    the augmentation that helped most on lymph nodes from several laboratories (Tellez et al. 2019).
    """
    from skimage.color import hed_from_rgb, rgb_from_hed  # only where colours are changed

    change = (hed_from_rgb * stains[:, None, :]) @ rgb_from_hed
    levels = -np.log((np.arange(256) + 1) / 256)
    density = levels.astype(np.float32)[images].reshape(len(images), -1, 3)
    pixels = np.exp(-density @ change.astype(np.float32)) * light[:, None, None].astype(np.float32)
    changed: Images = np.rint(256 * pixels - 1).clip(0, 255).astype(np.uint8).reshape(images.shape)
    return changed


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
    model: nn.Module, pools: Sequence[ImagePool], settings: Mapping[str, Any], *, seed: int, device: torch.device
) -> float:
    """Train for a fixed number of steps, each batch shared equally between the pools; return the mean loss of the last tenth.

    AdamW, learning rate up over the first 15 % of the steps and down a cosine to zero; no early stopping, so that every mix
    has seen equally many images.

    Parameters
    ----------
    model : on `device`.
    pools : what to train on.
    settings : `steps`, `batch_size`, `learning_rate`, `augmentations`.
    seed : of batches and augmentation.

    Raises
    ------
    InputError : the loss is no longer finite.
    """
    steps, size = settings["steps"], settings["batch_size"]
    optimiser = AdamW(model)
    model.train()
    losses = []
    for step in progress(range(steps), "training the classifier", unit="step"):
        images, labels = [], []
        for i, pool in enumerate(pools):
            share = size // len(pools) + (i < size % len(pools))
            places = batch_rows(len(pool), share, step, seed=seed, source=i)
            images.append(pool.take(places))
            labels.append(pool.labels[places])
        batch = augment(np.concatenate(images), settings["augmentations"], seed=seed, step=step)
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


def predict(model: nn.Module, pool: ImagePool, *, device: torch.device) -> npt.NDArray[np.float64]:
    """Class probabilities (N, classes) of every image of a pool, in its order."""
    model.eval()
    places = np.arange(len(pool))
    with torch.inference_mode():
        chunks = [
            model(normalise(pool.take(places[start : start + _TEST_BATCH]), device)).double().softmax(1).cpu().numpy()
            for start in range(0, len(pool), _TEST_BATCH)
        ]
    return np.concatenate(chunks)


def _trained(
    pools: Sequence[ImagePool], test: ImagePool, settings: Mapping[str, Any], *, seed: int, device: torch.device
) -> tuple[npt.NDArray[np.float64], float]:
    """What a new classifier says of the test images, and the loss it ended with."""
    model = build_model(settings["model"], settings["weights"], len(test.file.classes), seed=seed)
    model = model.to(device).to(memory_format=torch.channels_last)
    with torch.backends.cudnn.flags(deterministic=True, benchmark=False):
        loss = train(model, pools, settings, seed=seed, device=device)
        return predict(model, test, device=device), loss


def train_classifier(
    image_files: Sequence[str | Path],
    test_h5: str | Path,
    report_json: str | Path,
    *,
    mix: str,
    size: int,
    settings: Mapping[str, Any],
    seeds: Sequence[int],
    device: str,
    threads: int,
) -> None:
    """Train classifiers on a mix of image files, in equal shares, and test them on the whole unfiltered test split.

    Parameters
    ----------
    image_files : image sets to train on: patch files or tables of PNGs.
    test_h5 : the real test split.
    report_json : output: scores with intervals (`scores.score`), numbers of images, settings.
    mix : name of the mix.
    size : pixels a side at which it trains and tests; larger images are averaged over areas.
    settings : `model`, `weights`, `steps`, `batch_size`, `learning_rate`, and `augmentations`, a list of `AUGMENTATIONS`.
    seeds : of initial weights, batches and augmentation; one training each.
    device : auto, cpu or cuda.
    threads : of the CPU.

    Raises
    ------
    InputError : files of different classes or sizes, a class without images, unusable weights, a loss that is not finite.
    """
    torch.set_num_threads(threads)
    compute = resolve_device(device)
    with ExitStack() as stack:
        tested = at_most(stack.enter_context(PatchFile(test_h5)), size)
        sources = [at_most(stack.enter_context(open_images(path, tested.classes)), size) for path in image_files]
        _check_sources(sources, tested)
        *pools, test = map(ImagePool, [*sources, tested])
        counts = _check_classes(pools, test)
        results = [_trained(pools, test, settings, seed=seed, device=compute) for seed in seeds]
        classes = tested.classes
        write_json(
            report_json,
            {
                "mix": mix,
                "size": size,
                **score(np.stack([probabilities for probabilities, _ in results]), test.labels, seeds),
                "train": {
                    "images": int(counts.sum()),
                    "by_class": dict(zip(classes, counts.tolist(), strict=True)),
                    "files": [len(pool) for pool in pools],
                    "losses": [loss for _, loss in results],
                },
                "test": {"images": len(test), "by_class": dict(zip(classes, test.count().tolist(), strict=True))},
                "settings": dict(settings),
                "seeds": list(seeds),
            },
        )


def train_learning_curve(
    train_h5: str | Path,
    subset_csv: str | Path,
    prompts_csvs: Sequence[str | Path],
    arm_files: Sequence[str | Path],
    test_h5: str | Path,
    predictions_npy: str | Path,
    report_json: str | Path,
    *,
    curve: str,
    size: int,
    real: Sequence[int],
    finetuned: Sequence[str],
    settings: Mapping[str, Any],
    seed: int,
    device: str,
    threads: int,
) -> None:
    """Train a classifier at every point of a learning curve: on n real patches, or on n of them and an arm's images.

    The real patches are those of the training subset, from which generators learn, in nested draws stratified by label. Points
    are the numbers asked for, all patches of the subset, and as many as each fine-tuned generator saw; with an arm also none.
    All points of a curve and seed are one job: on a CPU its imports cost as much as a training or two.

    Parameters
    ----------
    train_h5, subset_csv : the train split, and the rows of it that are the training subset.
    prompts_csvs : what each fine-tuned generator was trained on, a row an image, in the order of `finetuned`.
    arm_files : the arm's images, a patch file or a table of PNGs; none for the curve of real patches alone.
    test_h5 : the real test split.
    predictions_npy : output: float64 (points, N, classes), class probabilities of the test images.
    report_json : output: the points, how many images each generator saw, settings.
    curve : `real` or the arm's name.
    size : as in `train_classifier`.
    real : numbers of real patches.
    finetuned : names of the arms whose generators were fine-tuned.
    settings, device, threads : as in `train_classifier`.
    seed : of the draw of real patches, of initial weights, batches and augmentation.

    Raises
    ------
    InputError : more real patches asked for than there are, too few for every class, and all that `train_classifier` raises.
    """
    torch.set_num_threads(threads)
    compute = resolve_device(device)
    rows = read_csv(subset_csv, ("row",))["row"].to_numpy(np.int64)
    saw = {arm: len(read_csv(path, ("row",))) for arm, path in zip(finetuned, prompts_csvs, strict=True)}
    if max(real) > len(rows):
        raise InputError(
            "config key `learning_curve.real`",
            found=f"{max(real)} real patches",
            expected=f"at most {len(rows)}, all patches of {subset_csv}",
            remedy="lower it, or raise `subset.train`",
        )
    sizes = sorted({*real, len(rows), *(n for n in saw.values() if n < len(rows))})
    with ExitStack() as stack:
        tested = at_most(stack.enter_context(PatchFile(test_h5)), size)
        whole, *others = (at_most(stack.enter_context(open_images(p, tested.classes)), size) for p in [train_h5, *arm_files])
        _check_sources([whole, *others], tested)
        *arm, test = map(ImagePool, [*others, tested])
        patches = ImagePool(whole, rows[nested_order(whole.labels[rows], seed=seed)])
        points = [*([0] if arm else []), *sizes]
        mixes = [[*([patches.first(n)] if n else []), *arm] for n in points]
        for pools in mixes:
            _check_classes(pools, test)
        results = [_trained(pools, test, settings, seed=seed, device=compute) for pools in mixes]
        with atomic(predictions_npy) as temporary:
            np.save(temporary, np.stack([probabilities for probabilities, _ in results]), allow_pickle=False)
        write_json(
            report_json,
            {
                "curve": curve,
                "real": points,
                "synthetic": sum(map(len, arm)),
                "all_real": len(rows),
                "generator_saw": saw,
                "losses": [loss for _, loss in results],
                "settings": dict(settings),
                "seed": seed,
            },
        )


def _check_sources(sources: Sequence[ImageSource], test: ImageSource) -> None:
    """Refuse image sets that do not fit the test split."""
    for source in sources:
        if source.classes != test.classes or source.size != test.size:
            raise InputError(
                source.path,
                found=f"classes {', '.join(source.classes)} at {source.size} px",
                expected=f"those of {test.path}: {', '.join(test.classes)} at {test.size} px",
                remedy="train and test on image sets of one study",
            )


def _check_classes(pools: Sequence[ImagePool], test: ImagePool) -> Rows:
    """Training images of each class, once no class is without images and each has two to test."""
    counts: Rows = np.sum([pool.count() for pool in pools], axis=0)
    for numbers, least, where, use in ((test.count(), 2, [test], "test"), (counts, 1, pools, "train")):
        if numbers.min() < least:
            word = test.file.classes[int(numbers.argmin())]
            raise InputError(
                ", ".join(str(pool.file.path) for pool in where),
                found=f"{numbers.min() or 'no'} image of class {word} among the {numbers.sum()} to {use} a classifier",
                expected=f"at least {least} of every class",
                remedy="give this split patches of every class, generate more images, or ask for more real ones",
            )
    return counts
