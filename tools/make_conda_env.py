"""Write envs/histoprompt.yaml with the pins of envs/requirements.txt: python tools/make_conda_env.py"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAD = """# The pins of envs/requirements.txt for `snakemake --sdm conda`, written by tools/make_conda_env.py.
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python =3.11
  - pip
  - pip:
"""


def pins(requirements: str) -> list[str]:
    """Every `name==version ; marker` of a lock file, without hashes."""
    return [match[1].strip() for match in re.finditer(r"^([A-Za-z0-9][^#\n\\]*==[^#\n\\]*)", requirements, flags=re.MULTILINE)]


def environment() -> str:
    """The text of envs/histoprompt.yaml."""
    return HEAD + "".join(f'      - "{pin}"\n' for pin in pins((ROOT / "envs/requirements.txt").read_text()))


if __name__ == "__main__":
    (ROOT / "envs/histoprompt.yaml").write_text(environment())
