"""Images brought to a patch's size."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt


def resize_images(images: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """uint8 (n, R, R, 3) -> (n, size, size, 3): the mean over each pixel's area where it shrinks, bilinear where it grows."""
    if images.shape[1] == size:
        return images
    method = cv2.INTER_AREA if size < images.shape[1] else cv2.INTER_LINEAR
    return np.stack([cv2.resize(image, (size, size), interpolation=method) for image in images]).astype(np.uint8, copy=False)
