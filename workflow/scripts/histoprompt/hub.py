"""Where a model's files are: a folder, or a pinned hub model in the local cache."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from huggingface_hub import constants, get_token, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from histoprompt.errors import InputError


def model_folder(
    model: str | Path,
    revision: str | None,
    *,
    key: str,
    kind: str,
    files: Sequence[str],
    contents: str,
    complete: Callable[[Path], bool],
) -> Path:
    """The folder of a model's files; a hub model's is in the local cache, downloaded first if need be.

    Parameters
    ----------
    model, revision : a folder and None, or a hub id and the 40 hexadecimal digits of its commit.
    key : the config section of the model, for messages.
    kind : what a folder should be, for messages.
    files : patterns of the files that are needed; nothing else is downloaded.
    contents : what a whole model has, for messages.
    complete : whether a cached folder has it: the cache may hold a part of a model.

    Raises
    ------
    InputError : neither a folder nor a pinned hub id, or the files are neither in the cache nor within reach, or the hub gives
        them to other accounts only.
    """
    folder = Path(model)
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(model)):
        raise InputError(
            folder,
            found="no folder of this name",
            expected=f"{kind}, or a hub id of the form owner/name",
            remedy=f"correct the path under the config key `{key}.model`",
        )
    if not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        raise InputError(
            f"config key `{key}.revision` of {model}",
            found=f"{revision!r}, and no folder {model}",
            expected="the 40 hexadecimal digits of a commit, if this is a hub id",
            remedy="pin the model: copy the commit from its page's file history; or correct the path of the folder",
        )
    reason = ""
    for local in (True, False):
        try:
            cached = Path(snapshot_download(str(model), revision=revision, allow_patterns=list(files), local_files_only=local))
        except (GatedRepoError, RepositoryNotFoundError) as error:
            raise _no_permission(str(model), revision, key, gated=isinstance(error, GatedRepoError)) from error
        except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
            reason = str(error).strip().split("\n")[0]
        else:
            if not local or complete(cached):
                return cached
    include = " ".join(f"--include '{name}'" for name in files)
    raise InputError(
        f"hub model {model}, revision {revision}",
        found=f"not in the local cache {constants.HF_HUB_CACHE}, and it cannot be downloaded ({reason})",
        expected=f"{contents} of that revision",
        remedy=f"where there is a network run `hf download {model} --revision {revision} {include}` and copy the cache here; "
        f"or add `--local-dir FOLDER` to that command and give the folder as `{key}.model`",
    )


def _no_permission(model: str, revision: str | None, key: str, *, gated: bool) -> InputError:
    """What to say of a model that the hub gives to some accounts only; the account is the user's own."""
    what = "a gated model, which this account has not been given" if gated else "a private model, or none that the hub knows"
    first = "accept the terms on the model's page and wait for its owners' consent" if gated else "check the id"
    return InputError(
        f"hub model {model}, revision {revision}",
        found=f"{what} ({'logged in' if get_token() else 'not logged in'})",
        expected="a model that you may download",
        remedy=f"{first}, then `hf auth login` with your own account and run the same command again; or take the model out of "
        f"`{key}`",
    )
