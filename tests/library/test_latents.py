from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import patch_images, write_patch_file

from histoprompt.arrays import gather_latents
from histoprompt.diffusion import load_vae, open_pipeline, to_pixels
from histoprompt.errors import InputError
from histoprompt.files import read_csv, read_json
from histoprompt.latents import encode_latents, psnr, reconstruct_patches, resample_patches
from histoprompt.patches import PatchFile
from histoprompt.resizing import resize_images

ROWS = [i for i in range(11) if i not in (1, 6)]


def encode(folder: Path, model: Path, wanted: list[int] = ROWS, name: str = "latents", **changes: object) -> np.ndarray:
    patches = write_patch_file(folder / "patches.h5", 11)
    pd.DataFrame({"row": wanted, "cluster": 0}).to_csv(folder / "subset.csv", index=False)
    settings = {"resolution": 32, "flip": False, "batch_size": 4, "device": "cpu", "threads": 1} | changes
    latents, rows = folder / f"{name}.npy", folder / f"{name}.rows.csv"
    encode_latents([patches], [folder / "subset.csv"], [latents], [rows], model=model, revision=None, **settings)
    return np.load(latents, allow_pickle=False)


def test_moments_are_the_autoencoders_and_unscaled(pipeline_folder: Path, tmp_path: Path) -> None:
    latents = encode(tmp_path, pipeline_folder)
    rows = read_csv(tmp_path / "latents.rows.csv")["row"].tolist()
    assert rows == ROWS
    assert (latents.shape, latents.dtype) == ((9, 1, 8, 4, 4), np.float16)
    vae = load_vae(open_pipeline(pipeline_folder, None), torch.device("cpu"))
    for place, row in enumerate(rows):
        posterior = vae.encode(to_pixels(patch_images(11)[row : row + 1], 32, torch.device("cpu"))).latent_dist
        expected = torch.cat([posterior.mean, posterior.logvar], 1)[0].numpy()
        np.testing.assert_allclose(latents[place, 0], expected, atol=2e-3, rtol=2e-3)


def test_flips_are_encodings_of_mirrored_patches_and_not_mirrored_encodings(pipeline_folder: Path, tmp_path: Path) -> None:
    latents = encode(tmp_path, pipeline_folder, flip=True)
    assert latents.shape[1] == 2
    np.testing.assert_array_equal(latents[:, :1], encode(tmp_path, pipeline_folder, name="plain"))
    vae = load_vae(open_pipeline(pipeline_folder, None), torch.device("cpu"))
    mirrored = np.ascontiguousarray(patch_images(11)[:1, :, ::-1])
    mean = vae.encode(to_pixels(mirrored, 32, torch.device("cpu"))).latent_dist.mean[0].numpy()
    np.testing.assert_allclose(latents[0, 1, :4], mean, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("shards", [2, 5])
def test_latents_have_the_same_bytes_for_any_number_of_shards(pipeline_folder: Path, tmp_path: Path, shards: int) -> None:
    encode(tmp_path, pipeline_folder, name="one")
    for number in range(shards):
        encode(tmp_path, pipeline_folder, name=str(number), shard=(number, shards))
    parts, tables = ([tmp_path / f"{number}.{form}" for number in range(shards)] for form in ("npy", "rows.csv"))
    gather_latents(parts, tables, tmp_path / "all.npy", tmp_path / "all.rows.csv")
    for form in ("npy", "rows.csv"):
        assert (tmp_path / f"all.{form}").read_bytes() == (tmp_path / f"one.{form}").read_bytes()


def test_latents_depend_neither_on_the_neighbours_nor_on_the_run(pipeline_folder: Path, tmp_path: Path) -> None:
    latents = encode(tmp_path, pipeline_folder)
    first = (tmp_path / "latents.npy").read_bytes()
    encode(tmp_path, pipeline_folder)
    assert (tmp_path / "latents.npy").read_bytes() == first
    # Other neighbours and another place in the batch, the last batch short.
    alone = encode(tmp_path, pipeline_folder, wanted=[10, 4], name="few")
    np.testing.assert_array_equal(alone, latents[[3, 8]])
    np.testing.assert_allclose(encode(tmp_path, pipeline_folder, name="other", batch_size=9), latents, atol=2e-3, rtol=2e-3)


def test_a_larger_resolution_gives_more_latents(pipeline_folder: Path, tmp_path: Path) -> None:
    assert encode(tmp_path, pipeline_folder, resolution=64).shape == (9, 1, 8, 8, 8)


@pytest.mark.parametrize("resolution", [32, 64])
def test_the_round_trip_reports_what_its_file_holds(pipeline_folder: Path, tmp_path: Path, resolution: int) -> None:
    source = write_patch_file(tmp_path / "real.h5", 7)
    settings = {"revision": None, "resolution": resolution, "batch_size": 4, "device": "cpu", "threads": 1}
    native = None if resolution == 32 else tmp_path / "vae.native.h5"
    reconstruct_patches(source, tmp_path / "vae.h5", native, tmp_path / "vae.json", model=pipeline_folder, **settings)
    if native:
        with PatchFile(native) as large, PatchFile(tmp_path / "vae.h5") as vae:
            assert (large.ids, large.size) == (vae.ids, 64)
            np.testing.assert_array_equal(resize_images(large.read(0, 7), 32), vae.read(0, 7))
    with PatchFile(source) as real, PatchFile(tmp_path / "vae.h5") as vae:
        assert (vae.ids, vae.classes, vae.size) == (real.ids, real.classes, 32)
        np.testing.assert_array_equal(vae.labels, real.labels)
        mse = ((vae.read(0, 7).astype(float) - real.read(0, 7)) ** 2).mean(axis=(1, 2, 3))
    report = read_json(tmp_path / "vae.json")
    assert report["images"] == 7
    assert report["psnr_mean"] == pytest.approx(np.mean(10 * np.log10(255**2 / mse)))
    assert report["psnr_of_mean_mse"] == pytest.approx(10 * np.log10(255**2 / mse.mean()))


@pytest.mark.parametrize("resolution", [96, 16])
def test_resampled_patches_are_resized_as_for_training_and_back(tmp_path: Path, resolution: int) -> None:
    source = write_patch_file(tmp_path / "real.h5", 7)
    out, native = tmp_path / "resampled.h5", tmp_path / "resampled.native.h5"
    resample_patches(source, out, native, resolution=resolution, batch_size=3, threads=1)
    with PatchFile(source) as real, PatchFile(out) as resampled, PatchFile(native) as large:
        assert resampled.ids == large.ids == real.ids and (resampled.size, large.size) == (32, resolution)
        np.testing.assert_array_equal(resampled.labels, real.labels)
        images = real.read(0, 7)
        trained_on = (to_pixels(images, resolution, torch.device("cpu")).permute(0, 2, 3, 1).numpy() + 1) * 127.5
        assert np.abs(large.read(0, 7) - trained_on).max() <= 0.5 + 1e-4
        np.testing.assert_array_equal(resampled.read(0, 7), resize_images(large.read(0, 7), 32))
        change = np.abs(resampled.read(0, 7).astype(float) - images).mean()
    assert 0.1 < change < (6 if resolution > 32 else 40)  # edges lose sharpness, and no more where nothing shrank


def test_psnr_of_known_errors() -> None:
    np.testing.assert_allclose(psnr([255.0**2, 1.0, 0.0]), [0.0, 48.1308, 100.0], atol=1e-4)


def test_shrinking_averages_over_areas() -> None:
    image = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1).repeat(3, axis=3) * 10
    blocks = image.reshape(1, 2, 2, 2, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(resize_images(image, 2), blocks, atol=0.5)
    # A ratio that is not whole: every source pixel has the same weight, so the mean stays.
    fine = patch_images(3, 64)
    np.testing.assert_allclose(resize_images(fine, 24).mean(axis=(1, 2)), fine.mean(axis=(1, 2)), atol=0.5)
    assert resize_images(fine, 64) is fine


def test_tables_that_do_not_belong_together_are_refused(pipeline_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)rows 2 to 11.*which has 11 patches"):
        encode(tmp_path, pipeline_folder, wanted=[11, 2])
    with pytest.raises(InputError, match="no row"):
        encode(tmp_path, pipeline_folder, wanted=[])
    with pytest.raises(InputError, match="multiple of 8"):
        encode(tmp_path, pipeline_folder, resolution=30)
    assert not list(tmp_path.glob("*.npy"))
    assert not pd.Series([p.name for p in tmp_path.iterdir()]).str.contains("partial").any()
