"""What a request for more images asks for. Imports nothing heavy: the workflow asks before any job runs."""

from __future__ import annotations

import hashlib
import re

_BALANCED = re.compile(r"(?P<images>[0-9]+)(?:-[A-Za-z0-9]+)?")


def images_of_request(request: str) -> int | None:
    """How many images a request is for; None where it names a file of prompts.

    `500` are 500 images, `500-b` are 500 others.
    """
    found = _BALANCED.fullmatch(request)
    return int(found["images"]) if found else None


def seed_of_request(seed: int, request: str) -> int:
    """The seed of a request's images: 63 bits that no study and no other request has, the same for every arm."""
    digest = hashlib.sha256(f"{seed} more images: {request}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
