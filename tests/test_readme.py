"""What the README and the pages of docs say is true of the code."""

import re
from pathlib import Path

import pytest

import jaxnn

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [README, *(p.read_text(encoding="utf-8") for p in sorted((ROOT / "docs").glob("*.md")))]
PROGRAMS = [
    program
    for page in PAGES
    for program in re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    if "import" in program
]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.strip().splitlines()[-1][:30])
def test_a_program_runs_as_printed(program, capsys):
    exec(compile(program, "README.md", "exec"), {"__name__": "readme"})
    assert "FAILED" not in capsys.readouterr().out


def test_the_table_of_layers_names_what_exists():
    rows = re.findall(r"^\| [a-z].*\| (`.*`) \|$", README, re.MULTILINE)
    names = re.findall(r"`(\w+)`", " ".join(rows))
    assert len(names) > 40
    assert [name for name in names if not hasattr(jaxnn, name)] == []


def test_every_public_layer_and_loss_is_in_the_table():
    from experiments.support.config import LAYERS, LOSSES

    assert [name for name in (*LAYERS, *LOSSES) if f"`{name}`" not in README] == []


def test_every_configuration_is_in_the_table_of_results():
    names = sorted(path.stem for path in (ROOT / "configs").glob("*.toml"))
    assert re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE) == names


def test_every_script_that_is_named_exists():
    modules = set(re.findall(r"python -m (experiments[.\w]*)", README))
    for module in modules:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
