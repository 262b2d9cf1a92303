"""Features of an image set, once for every protocol in which image sets are compared.

`matched` compares at one size. Both sides are averaged over areas down to the smaller of patch and generator, and reach the
encoder's input by its own anti-aliased filter: no difference of size is left. `paper` compares as the paper did. Real patches
stay at the patch size and synthetic images at the generator's, and both reach the encoder's input by bilinear interpolation
without anti-aliasing, as in clean-fid's legacy mode: its distances also hold how far each side was resized.
(Parmar et al. 2022.)
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from histoprompt.arrays import WHOLE, Shard
from histoprompt.devices import resolve_device
from histoprompt.embedding import load_encoder, write_features
from histoprompt.files import atomic, link
from histoprompt.patches import PatchFile
from histoprompt.sources import ImageSource, at_most, open_images


def extract_features(
    images_h5: str | Path,
    native: str | Path,
    embeddings_npy: str | Path,
    matched_npy: str | Path,
    paper_npy: str | Path,
    *,
    size: int,
    kind: str,
    model: str | Path,
    revision: str | None,
    batch_size: int,
    dtype: str,
    device: str,
    threads: int,
    shard: Shard = WHOLE,
) -> None:
    """Write the features of an image set for the morphology and for each protocol: float32 (N, d), row i = image i.

    What would be computed from the same pixels by the same resizing is computed once; its files are one file under two names.

    Parameters
    ----------
    images_h5 : the images at the patch size, a patch file.
    native : the same images at the size at which they were made, a patch file or a table of PNGs.
    embeddings_npy : written: features of `images_h5`, anti-aliased, with which clusters are compared.
    matched_npy, paper_npy : written: features by which the images are compared under each protocol.
    size : pixels a side at which `matched` compares: the smaller of patch and generator.
    kind, model, revision, batch_size, dtype, device, threads, shard : as `embedding.embed_images`.

    Raises
    ------
    InputError : what `embedding.embed_images` raises, or an image that is missing, changed or unreadable.
    """
    torch.set_num_threads(threads)
    with ExitStack() as stack:
        images = stack.enter_context(PatchFile(images_h5))
        original = stack.enter_context(open_images(native, images.classes))
        if original.size == images.size:
            original = images
        encoder = load_encoder(model, revision, kind=kind, device=resolve_device(device), dtype=dtype)
        plain = replace(encoder, preprocessing=replace(encoder.preprocessing, antialias=False))
        entry = (encoder.preprocessing.height, encoder.preprocessing.width)
        # Images larger than a patch were averaged down to one already.
        compared = images if images.size == size else at_most(original, size)
        made: dict[tuple[ImageSource, bool], str | Path] = {}
        for path, source, antialias in (
            (embeddings_npy, images, True),
            (matched_npy, compared, True),
            (paper_npy, original, False),
        ):
            view = (source, antialias or entry == (source.size, source.size))
            if view in made:
                with atomic(path) as temporary:
                    link(made[view], temporary)
            else:
                write_features(encoder if antialias else plain, source, path, batch_size=batch_size, shard=shard)
                made[view] = path
