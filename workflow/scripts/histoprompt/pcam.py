"""PCam's own files as a source of patches, and their download."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from histoprompt.errors import InputError
from histoprompt.files import atomic, sha256, write_json
from histoprompt.folders import fit_patch
from histoprompt.job import progress, say
from histoprompt.patches import SPLITS, Images, check_images, check_labels, open_hdf5, read_images

ZENODO = "https://zenodo.org/records/2546921"  # PCam's record, kept by its authors; the same archives as on their Google Drive

_BATCH = 256
_OFFICIAL_PATCHES = {"train": 262_144, "valid": 32_768, "test": 32_768}
# torchvision carries no checksums of the slide tables; these are the record's own.
_META_MD5 = {
    "train": "5a3dd671e465cfd74b5b822125e65b0a",
    "valid": "67589e00a4a37ec317f2d1932c7502ca",
    "test": "3455fd69135b66734e1008f3af684566",
}


def file_name(split: str, part: str) -> str:
    """PCam's name of a split's `x`, `y` (HDF5) or `meta` (CSV) file."""
    return f"camelyonpatch_level_2_split_{split}_{part}.{'csv' if part == 'meta' else 'h5'}"


def open_pcam(root: str | Path, split: str, *, classes: Sequence[str], size: int) -> tuple[pd.DataFrame, Iterator[Images]]:
    """A split of a PCam root of any size.

    Parameters
    ----------
    root : a folder with PCam's six HDF5 files. Beside them may lie `patch_ids.csv` (columns `split`, `index`, an identifier
        `id` or `kaggle_id`, a group `slide` or `overlap_group`) or PCam's own `…_meta.csv` (column `wsi`), for identifiers
        and slides.
    classes : the words of labels 0 and 1.
    size : patches of another size are resized as `folders.fit_patch` does.

    Returns
    -------
    A table `id,label,slide`, and the patches uint8 (size, size, 3) in its order, read a few at a time.

    Raises
    ------
    InputError : a file is missing, truncated or of another layout, x and y differ in length, labels lie outside {0, 1}, or a
        CSV beside them does not match.
    """
    root = Path(root)
    missing = [name for s in SPLITS for part in "xy" if not (root / (name := file_name(s, part))).is_file()]
    if missing:
        raise InputError(
            root,
            found=f"no {', '.join(missing)}",
            expected="PCam's six files camelyonpatch_level_2_split_{train,valid,test}_{x,y}.h5",
            remedy="correct the config key `data.root`, or fetch the files with `snakemake download_pcam`",
        )
    x_path, y_path = root / file_name(split, "x"), root / file_name(split, "y")
    with open_hdf5(x_path) as x_file, open_hdf5(y_path) as y_file:
        images = _data_set(x_path, x_file, "x")
        check_images(x_path, images)
        labels = check_labels(y_path, _data_set(y_path, y_file, "y"), images=len(images), classes=len(classes))
    table = pd.DataFrame({"id": [f"pcam-{split}-{i:07d}" for i in range(len(labels))], "label": labels, "slide": ""})
    return _with_slides(root, split, table), _read(x_path, size)


def _data_set(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    if not isinstance(file.get(name), h5py.Dataset):
        raise InputError(
            path,
            found=f"the data sets {sorted(file)}",
            expected=f"a data set `{name}`",
            remedy="use PCam's own file of this name, or one in its layout",
        )
    return file[name]


def _read(path: Path, size: int) -> Iterator[Images]:
    with open_hdf5(path) as file:
        for start in range(0, len(file["x"]), _BATCH):
            yield from (fit_patch(image, size) for image in read_images(path, file["x"], start, start + _BATCH))


def _with_slides(root: Path, split: str, table: pd.DataFrame) -> pd.DataFrame:
    own, official = root / "patch_ids.csv", root / file_name(split, "meta")
    if own.is_file():
        rows = _read_rows(own, len(table))
        identifier = next((name for name in ("id", "kaggle_id") if name in rows), None)
        group = next((name for name in ("slide", "overlap_group") if name in rows), None)
        if identifier is None or group is None or not {"split", "index"} <= set(rows):
            raise _bad_rows(own, f"the columns {list(rows)}", len(table))
        rows = rows[rows["split"] == split]
        order = pd.to_numeric(rows["index"], errors="coerce")
        rows = rows.iloc[np.argsort(order.to_numpy(), kind="stable")]
        if sorted(order) != list(range(len(table))):
            raise _bad_rows(own, f"{len(rows)} rows of the split {split}, or other indices", len(table))
        if rows[identifier].duplicated().any():
            raise _bad_rows(own, f"identifiers that occur twice in {split}", len(table))
        if "label" in rows and rows["label"].to_list() != table["label"].astype(str).to_list():
            raise _bad_rows(own, f"other labels than {file_name(split, 'y')} has", len(table))
        return table.assign(id=rows[identifier].to_list(), slide=rows[group].to_list())
    if official.is_file():
        rows = _read_rows(official, len(table))
        if "wsi" not in rows or len(rows) != len(table):
            raise _bad_rows(official, f"{len(rows)} rows with the columns {list(rows)}", len(table))
        return table.assign(slide=rows["wsi"].to_list())
    return table


def _read_rows(path: Path, patches: int) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    except (UnicodeDecodeError, ValueError) as error:
        raise _bad_rows(path, f"no readable CSV ({error})", patches) from error


def _bad_rows(path: Path, found: str, patches: int) -> InputError:
    return InputError(
        path,
        found=found,
        expected=f"a row for each of {patches} patches, with split,index,id,slide (patch_ids.csv) or wsi (PCam's _meta.csv)",
        remedy="correct the file, or remove it: slides are then unknown",
    )


@dataclass(frozen=True)
class PcamFile:
    """One file to download: the name once unpacked, the md5 of what is served, and how many patches it must be about."""

    name: str
    md5: str
    patches: int
    optional: bool = False

    @property
    def served(self) -> str:
        """The name under which it is served: HDF5 files are gzipped, tables are not."""
        return f"{self.name}.gz" if self.name.endswith(".h5") else self.name


def official_files() -> list[PcamFile]:
    """PCam's six HDF5 files, names and md5 sums as torchvision has them, and its three tables of slides."""
    from torchvision.datasets import PCAM  # seconds to import: only the download needs it

    files = []
    for key, parts in PCAM._FILES.items():
        split = "valid" if key == "val" else key
        files += [PcamFile(name, md5, _OFFICIAL_PATCHES[split]) for name, _, md5 in parts.values()]
    files += [
        PcamFile(file_name(split, "meta"), md5, _OFFICIAL_PATCHES[split], optional=True) for split, md5 in _META_MD5.items()
    ]
    return files


def fetch_url(url: str, path: Path) -> None:
    """Download `url` to `path`, going on where an earlier attempt left off; `OSError` when it is out of reach or breaks off."""
    have = path.stat().st_size if path.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to send; the checksum will tell
            return
        raise
    with response:
        have = have if response.status == 206 else 0
        expected = have + int(response.headers.get("Content-Length", 0))
        blocks = iter(lambda: response.read(2**20), b"")
        with open(path, "ab" if have else "wb") as stream:
            for block in progress(blocks, path.name, total=-(-expected // 2**20), unit="MiB", initial=have // 2**20):
                stream.write(block)
    if path.stat().st_size < expected:
        raise ConnectionError(f"the connection ended after {path.stat().st_size} of {expected} bytes")


def download_pcam(
    folder: str | Path,
    *,
    files: Sequence[PcamFile] | None = None,
    source: str = f"{ZENODO}/files",
    fetch: Callable[[str, Path], None] = fetch_url,
) -> None:
    """Bring PCam's files to `folder`, unpacked and checked, and write `manifest.json` (md5 of the archive, sha256, bytes).

    Run again after any interruption: files that are there are not fetched again, a partial download goes on. Archives put into
    `folder` by hand are unpacked, and unpacked files are taken when their layout and number of patches are PCam's.

    Parameters
    ----------
    files : what to fetch; None: `official_files()`.
    source : the address below which the files are served.
    fetch : downloads an address to a path, continuing what is there; raises `OSError` when it cannot.

    Raises
    ------
    InputError : files are missing and cannot be fetched (the message lists each, its md5, where it comes from and where to put
        it), a checksum is wrong, or an unpacked file is not PCam's.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = official_files() if files is None else files
    # What is there is judged before the first byte is fetched.
    missing = [file for file in files if not _already_there(folder, file)]
    for number, file in enumerate(missing):
        say(f"fetching {file.served} from {source}")
        partial = folder / f"{file.served}.partial"
        try:
            fetch(f"{source}/{file.served}", partial)
        except (OSError, http.client.HTTPException) as error:
            if file.optional:
                say(f"{file.name} cannot be fetched ({error}); the slides of its patches stay unknown")
                continue
            raise _how_to_fetch(folder, missing[number:], source, error) from error
        found = _md5(partial)
        if found != file.md5:
            partial.unlink()
            raise _wrong_sum(partial, found, file, "run the same command again: the damaged download has been removed")
        _unpack(partial, folder, file)
        partial.unlink()
    manifest = {
        file.name: {"md5": file.md5, "sha256": sha256(folder / file.name), "bytes": (folder / file.name).stat().st_size}
        for file in files
        if (folder / file.name).exists()
    }
    write_json(folder / "manifest.json", {"source": source, "files": manifest})


def _already_there(folder: Path, file: PcamFile) -> bool:
    unpacked, archive = folder / file.name, folder / file.served
    if not unpacked.exists() and archive.exists():
        found = _md5(archive)
        if found != file.md5:
            raise _wrong_sum(archive, found, file, "delete the file and run the same command again, or copy it again")
        _unpack(archive, folder, file)
    if not unpacked.exists():
        return False
    if archive == unpacked:
        found = _md5(unpacked)
        if found != file.md5:
            raise _wrong_sum(unpacked, found, file, "delete the file and run the same command again, or copy it again")
        return True
    with open_hdf5(unpacked) as content:
        name = "x" if file.name.endswith("_x.h5") else "y"
        data = _data_set(unpacked, content, name)
        if name == "x":
            check_images(unpacked, data)
        else:
            check_labels(unpacked, data, images=len(data), classes=2)
        if len(data) != file.patches:
            raise InputError(
                unpacked,
                found=f"{len(data)} patches",
                expected=f"PCam's {file.patches}",
                remedy="move this file elsewhere and run the same command again; a root of your own needs no download",
            )
    return True


def _unpack(archive: Path, folder: Path, file: PcamFile) -> None:
    opener = open if file.served == file.name else gzip.open
    with opener(archive, "rb") as packed, atomic(folder / file.name) as temporary, open(temporary, "wb") as unpacked:
        shutil.copyfileobj(packed, unpacked, 2**20)


def _md5(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _wrong_sum(path: Path, found: str, file: PcamFile, remedy: str) -> InputError:
    return InputError(path, found=f"md5 {found}", expected=f"md5 {file.md5}", remedy=remedy)


def _how_to_fetch(folder: Path, missing: Sequence[PcamFile], source: str, error: Exception) -> InputError:
    lines = [f"{file.served}  md5 {file.md5}  {source}/{file.served}" for file in missing]
    listing = "\n".join(
        f"      {line}{'  (optional: slides)' if file.optional else ''}" for line, file in zip(lines, missing, strict=True)
    )
    return InputError(
        folder,
        found=f"{len(missing)} files of PCam are missing, and they cannot be fetched ({error})",
        expected=f"these files, from PCam's record {ZENODO}:\n{listing}",
        remedy=f"on a machine with network, download them (7.7 GB in all), check the md5 sums, put them into {folder}, as they "
        "are or unpacked, and run the same command again; it also goes on where a download broke off",
    )
