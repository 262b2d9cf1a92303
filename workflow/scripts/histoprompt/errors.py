"""The one error a user is meant to read."""

from __future__ import annotations

from pathlib import Path


class InputError(ValueError):
    """Something the user gave cannot be used.

    Parameters
    ----------
    where : the file, folder or config key that is at fault.
    found : what is there.
    expected : what should be there.
    remedy : what to do about it.
    """

    def __init__(self, where: str | Path, *, found: str, expected: str, remedy: str) -> None:
        self.where, self.found, self.expected, self.remedy = str(where), found, expected, remedy
        super().__init__(f"{where}\n  found:    {found}\n  expected: {expected}\n  to do:    {remedy}")

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions are rebuilt from their arguments when they cross a process boundary; ours are keywords.
        return _rebuild, (self.where, self.found, self.expected, self.remedy)


def _rebuild(where: str, found: str, expected: str, remedy: str) -> InputError:
    return InputError(where, found=found, expected=expected, remedy=remedy)
