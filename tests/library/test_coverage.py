"""Coverage cluster by cluster, as a table and as a picture."""

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from tiny import write_patch_file

from histoprompt.coverage import draw_coverage
from histoprompt.errors import InputError
from histoprompt.files import write_json


def report(folder: Path, name: str, shares: list[float | None]) -> Path:
    clusters = [
        {
            "cluster": cluster,
            "images": 10,
            "reference": 20 + cluster,
            "coverage": {"value": share, "low": share, "high": share},
            "distance": 0.5,
        }
        for cluster, share in enumerate(shares)
    ]
    nothing = [entry | {"coverage": {"value": 0.0, "low": 0.0, "high": 0.1}} for entry in clusters]
    protocols = {"matched": {"dino": {"clusters": clusters}, "other": {}}, "paper": {"dino": {"clusters": nothing}}}
    write_json(folder / f"{name}.json", {"name": name, "protocols": protocols})
    return folder / f"{name}.json"


def test_every_cluster_of_every_image_set_is_there(tmp_path: Path) -> None:
    files = [report(tmp_path, "real", [0.9, 0.8, None]), report(tmp_path, "arm", [0.5, 0.0, 0.25])]
    rows = pd.DataFrame({"row": [4, 2, 7], "id": "p", "label": 0, "cluster": [0, 0, 1], "distance": [0.2, 0.1, 0.3]})
    rows.to_csv(tmp_path / "test.csv", index=False)
    patches = write_patch_file(tmp_path / "test.h5", 10, 16)
    outputs = [(tmp_path / f"{n}.csv", tmp_path / f"{n}.png") for n in range(2)]
    for table_csv, figure_png in outputs:
        draw_coverage(files, patches, tmp_path / "test.csv", table_csv, figure_png)
    table = pd.read_csv(outputs[0][0])
    assert len(table) == 12 and table["encoder"].eq("dino").all()
    assert table.loc[table["protocol"] == "paper", "coverage"].eq(0).all()
    table = table[table["protocol"] == "matched"]
    assert table.loc[table["name"] == "arm", "coverage"].tolist() == [0.5, 0.0, 0.25]
    assert table["coverage"].isna().sum() == 1 and table["reference"].tolist() == [20, 21, 22] * 2
    assert min(Image.open(outputs[0][1]).size) > 200
    assert outputs[0][1].read_bytes() == outputs[1][1].read_bytes()


def test_clusters_of_other_patches_are_refused(tmp_path: Path) -> None:
    rows = pd.DataFrame({"row": [0, 10], "id": "p", "label": 0, "cluster": 0, "distance": 0.1})
    rows.to_csv(tmp_path / "test.csv", index=False)
    patches = write_patch_file(tmp_path / "test.h5", 10, 16)
    files = (tmp_path / "table.csv", tmp_path / "figure.png")
    with pytest.raises(InputError, match=r"(?s)test\.csv.*a patch 10.*10 patches of .*test\.h5"):
        draw_coverage([report(tmp_path, "real", [0.9])], patches, tmp_path / "test.csv", *files)
    assert not any(path.exists() for path in files)
