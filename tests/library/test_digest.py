"""Code digests follow what a program does, model digests what a folder holds."""

import ast
import os
import shutil
import sys
from pathlib import Path

import pytest

from histoprompt.digest import code_digest, model_digest, normalised_code

SCRIPTS = Path(__file__).parents[2] / "workflow/scripts"

CODE = '''"""A module."""

import math


class Disc:
    """A disc."""

    radius = 1.0  # millimetres

    def area(self, scale=1.0):
        """Its area.

        In square millimetres.
        """
        text = f"{self.radius:.2f} # not a comment {math.pi!r:>{10}}"
        return math.pi * self.radius**2 * scale, text
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A module."""\n', ""),
        ('"""A disc."""', '"""A round thing,\n    flat."""'),
        ("  # millimetres", ""),
        ("  # millimetres", "\n    # of the disc"),
        ("    radius = 1.0", "\n\n    radius = 1.0"),
        ("math.pi * self.radius**2 * scale", "math.pi*self.radius ** 2*scale"),
        ("return math.pi", "# so\n        return math.pi"),
        ("(self, scale=1.0)", "(\n        self, scale=1.0)"),
        ('        """Its area.\n\n        In square millimetres.\n        """\n', ""),
    ],
)
def test_comments_docstrings_and_layout_do_not_count(old, new):
    assert old in CODE
    changed = CODE.replace(old, new, 1)
    assert changed != CODE
    assert normalised_code(changed) == normalised_code(CODE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("radius = 1.0", "radius = 2.0"),
        ("# not a comment", "# no comment"),
        (".2f", ".3f"),
        ("scale=1.0", "scale=True"),
        ("        text =", "        if scale:\n            pass\n        text ="),
        ('"""Its area.', 'x = """Its area.'),
        ("        return", "    return"),
        ("import math", "import math as maths"),
    ],
)
def test_code_counts(old, new):
    assert old in CODE
    assert normalised_code(CODE.replace(old, new, 1)) != normalised_code(CODE)


def test_fstrings_are_taken_whole_on_every_python():
    # Python 3.12 splits an f-string into tokens; what is hashed must be what 3.11 sees: one literal.
    source = "x = f'a{b!r:>{w}}c' f\"{d['e']}\" 'g'\n"
    assert normalised_code(source).split("\0") == ["x", "=", "f'a{b!r:>{w}}c'", "f\"{d['e']}\"", "'g'", "<newline>"]
    source = 'y = f"""{a}\n  # kept {b}\n"""\n'
    assert normalised_code(source).split("\0")[2] == 'f"""{a}\n  # kept {b}\n"""'


def test_nested_blocks_keep_their_structure():
    one = normalised_code("if a:\n    if b:\n        c()\n    d()\n")
    two = normalised_code("if a:\n    if b:\n        c()\n        d()\n")
    assert one != two


@pytest.fixture
def tree(tmp_path):
    files = {
        "one.py": "from lib.alpha import f\nf()\n",
        "two.py": "import lib.beta\n\ndef g():\n    from lib import gamma\n    return gamma\n",
        "three.py": "import os\n",
        "lib/__init__.py": "",
        "lib/alpha.py": "from lib.beta import h\nf = h\n",
        "lib/beta.py": "def h():\n    return 1\n",
        "lib/gamma/__init__.py": "from .delta import d\n",
        "lib/gamma/delta.py": "from ..alpha import f\nd = 4\n",
        "lib/unused.py": "u = 1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("edited", "affected"),
    [
        ("lib/alpha.py", {"one", "two"}),  # two imports it through gamma's relative import
        ("lib/beta.py", {"one", "two"}),
        ("lib/gamma/delta.py", {"two"}),  # imported inside a function
        ("lib/gamma/__init__.py", {"two"}),
        ("lib/__init__.py", {"one", "two"}),
        ("lib/unused.py", set()),
        ("three.py", {"three"}),
    ],
)
def test_an_edit_changes_exactly_the_scripts_that_import_it(tree, edited, affected):
    scripts = ("one", "two", "three")
    before = {name: code_digest(tree / f"{name}.py") for name in scripts}
    (tree / edited).write_text((tree / edited).read_text() + "extra = 1\n")
    after = {name: code_digest(tree / f"{name}.py") for name in scripts}
    assert {name for name in scripts if after[name] != before[name]} == affected


def test_time_stamps_and_place_do_not_count(tree, tmp_path_factory):
    before = code_digest(tree / "two.py")
    for path in tree.rglob("*.py"):
        os.utime(path, (1, 1))
    assert code_digest(tree / "two.py") == before
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(tree, elsewhere)
    assert code_digest(elsewhere / "two.py") == before


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.py")), ids=lambda p: p.stem)
def test_every_script_is_one_call_in_a_job_of_its_own_name(script):
    body = ast.parse(script.read_text()).body
    assert ast.get_docstring(ast.parse(script.read_text()))
    guard = body[-1]
    assert all(isinstance(node, ast.Expr | ast.Import | ast.ImportFrom) for node in body[:-1])
    assert isinstance(guard, ast.If) and ast.unparse(guard.test) == "__name__ == '__main__'"
    (job,) = guard.body
    assert isinstance(job, ast.With) and ast.unparse(job.items[0]) == f"job(snakemake.log[0], '{script.stem}')"
    assert len(job.body) == 1 and isinstance(job.body[0], ast.Expr) and isinstance(job.body[0].value, ast.Call)
    assert len(code_digest(script)) == 64


def test_every_script_depends_on_the_library_it_calls():
    digests = {script.stem: code_digest(script) for script in SCRIPTS.glob("*.py")}
    assert len(set(digests.values())) == len(digests)


def test_model_digest_follows_names_and_contents(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    weights = folder / "model.safetensors"
    weights.write_bytes(bytes(range(256)) * 70_000)  # above the size that is read whole

    def digest():
        model_digest.cache_clear()
        return model_digest(folder)

    first = digest()
    os.utime(weights, (1, 1))
    assert digest() == first
    with open(weights, "r+b") as stream:
        stream.seek(0)
        stream.write(b"\xff")
    second = digest()
    assert second != first
    (folder / "config.json").write_text("{ }")
    assert digest() != second
    weights.rename(folder / "weights.safetensors")
    assert digest() not in (first, second)


def test_a_hub_id_is_its_own_digest():
    assert model_digest("facebook/dino-vitb8") == "facebook/dino-vitb8"


def test_digests_need_no_torch():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import histoprompt.config, histoprompt.digest, histoprompt.environment; "
    )
    code += "sys.exit(any(m in sys.modules for m in ('torch', 'pandas', 'numpy', 'h5py')))"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code, str(SCRIPTS)]) == 0
