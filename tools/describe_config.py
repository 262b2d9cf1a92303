"""Write config/README.md from the schema and the shipped study files: python tools/describe_config.py"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "workflow/scripts"))

from histoprompt.config import expectation  # noqa: E402

HEAD = """# Configuration

One file is one study. `config.yaml` is the demo, `pcam.yaml` the paper's study, `pcam_mini.yaml` a small study of real tissue.
For a study of your own, copy the nearest one, change what differs and give it to Snakemake:
`snakemake --cores all --configfile config/mine.yaml`. It takes nothing from the default file. Single keys can be set on the
command line: `--config seed=7 data='{root: PATH}'`.

Every key is required, save `foundation` and those of an arm: what an arm leaves out, the study decides. Unknown keys
are refused. YAML reads `1e-5` as text, so write `1.0e-5`; inside braces `--config` gives text alone, so set numbers in a file.

This file is written by `tools/describe_config.py` from `workflow/schemas/config.schema.yaml`; change the descriptions there.
"""


def keys(schema: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Every key below a schema, depth first."""
    for name, entry in schema.get("properties", {}).items():
        yield (*path, name), entry
        if path == ("arms", "*"):
            continue  # what an arm may change is described where the study states it
        yield from keys(entry, (*path, name))
        more = entry.get("additionalProperties")
        if isinstance(more, Mapping) and path != ("ablations", "*"):  # their arms are described as those of `arms` are
            yield (*path, name, "*"), more
            yield from keys(more, (*path, name, "*"))


def value_of(study: Any, path: tuple[str, ...]) -> str:
    """A study's value as one line of YAML, or nothing for a section and for a key that has no single value."""
    for name in path:
        if not isinstance(study, Mapping) or name not in study:
            return ""
        study = study[name]
    if isinstance(study, Mapping):
        return ""
    text = yaml.safe_dump(study, default_flow_style=True, width=1000, allow_unicode=True).removesuffix("...\n").strip()
    return f"`{text}`".replace("|", "\\|")


def describe() -> str:
    """The text of config/README.md."""
    schema = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())
    demo, paper = (yaml.safe_load((ROOT / "config" / name).read_text()) for name in ("config.yaml", "pcam.yaml"))
    lines = [HEAD]
    for section, entry in schema["properties"].items():
        rows = [((section,), entry), *keys(entry, (section,))]
        if "properties" in entry or "additionalProperties" in entry:
            lines += [f"\n## `{section}`\n", entry["description"], ""]
            if isinstance(entry.get("additionalProperties"), Mapping):
                rows = list(keys({"properties": {section: entry}}))
            rows = [row for row in rows if row[0] != (section,) and row[0] != (section, "*")]
        elif section == "study":
            lines += ["\n## General\n"]
        if "properties" in entry or "additionalProperties" in entry or section == "study":
            lines += ["| key | what it is | values | demo | paper |", "|---|---|---|---|---|"]
        for path, key in rows:
            cells = [
                f"`{'.'.join(path)}`",
                key.get("description", ""),
                expectation(key),
                value_of(demo, path),
                value_of(paper, path),
            ]
            lines.append("| " + " | ".join(cell.replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (ROOT / "config/README.md").write_text(describe())
