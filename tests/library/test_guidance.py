"""The table and figure of a guidance sweep."""

import pandas as pd
from PIL import Image

from histoprompt.files import write_json
from histoprompt.guidance import summarise_guidance


def test_every_value_is_in_the_table_and_undefined_ones_are_empty(tmp_path):
    files = []
    for scale in (1, 2, 7.5):
        cells = {
            name: {"value": scale / 10, "low": scale / 20, "high": scale / 5}
            for name in ("kd", "precision", "density", "coverage")
        }
        cells |= {"recall": {"value": 1 / scale, "low": None, "high": None}}
        cells |= {"fd": {"value": None, "low": None, "high": None, "reason": "too few images"}}
        files.append(tmp_path / f"{scale}.json")
        fidelity = {"value": 0.5, "low": 0.4, "high": 0.6}
        write_json(files[-1], {"name": f"arm-guidance{scale}", "encoders": {"dino": cells}, "prompt_fidelity": fidelity})
    summarise_guidance(files, tmp_path / "table.csv", tmp_path / "figure.png", arms=["arm"], scales=[1, 2, 7.5])
    table = pd.read_csv(tmp_path / "table.csv")
    assert len(table) == 21 and set(table["arm"]) == {"arm"}
    recall = table[table["metric"] == "recall"]
    assert recall["value"].tolist() == [1, 0.5, 1 / 7.5] and recall["low"].isna().all()
    assert table.loc[table["metric"] == "Fréchet distance", "value"].isna().all()
    assert (
        table.loc[table["metric"] == "prompt fidelity", ["low", "value", "high"]].to_numpy().tolist() == [[0.4, 0.5, 0.6]] * 3
    )
    assert min(Image.open(tmp_path / "figure.png").size) > 500
