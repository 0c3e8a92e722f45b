"""What the README and the pages of docs say is true of the code."""

import re
from pathlib import Path

import pytest

import jaxnn
from experiments.gallery import THEMES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
JAPANESE = ROOT / "README.ja.md"
HOW_TO = sorted((ROOT / "docs" / "howto").glob("*.md"))
PAGES = {
    path: path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", JAPANESE, *sorted((ROOT / "docs").glob("*.md")), *HOW_TO)
}
PROGRAMS = [
    program
    for path, page in PAGES.items()
    if path != JAPANESE
    for program in re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    if "import" in program
]


LAYERS_PAGE = PAGES[ROOT / "docs" / "layers.md"]


def test_the_readme_can_be_read_in_a_few_minutes():
    assert len(README.split()) <= 900


def test_code_that_is_said_to_come_from_a_file_stands_there():
    quoted = re.findall(r"<!-- from (\S+) -->\n```python\n(.*?)```", README, re.DOTALL)
    assert quoted
    for path, code in quoted:
        for part in code.strip("\n").split("\n\n"):
            assert part in (ROOT / path).read_text(encoding="utf-8")


def test_the_japanese_readme_has_the_same_code_and_links():
    for pattern in (r"```(?:python|sh)\n.*?```", r"\]\((docs/[^)]+|tests/[^)]+)\)"):
        there, here = (re.findall(pattern, page, re.DOTALL) for page in (PAGES[JAPANESE], README))
        assert there == here


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_every_link_to_a_file_holds(path):
    for target in re.findall(r"\]\(([^)#:]+)\)", PAGES[path]):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.strip().splitlines()[-1][:30])
def test_a_program_runs_as_printed(program, capsys):
    exec(compile(program, "README.md", "exec"), {"__name__": "readme"})
    assert "FAILED" not in capsys.readouterr().out


def test_the_table_of_layers_names_what_exists():
    rows = re.findall(r"^\| [a-z].*\| (`.*`) \|$", LAYERS_PAGE, re.MULTILINE)
    names = re.findall(r"`(\w+)`", " ".join(rows))
    assert len(names) > 40
    assert [name for name in names if not hasattr(jaxnn, name)] == []


def test_every_public_layer_and_loss_is_in_the_table():
    from experiments.support.config import LAYERS, LOSSES

    assert [name for name in (*LAYERS, *LOSSES) if f"`{name}`" not in LAYERS_PAGE] == []


def test_every_configuration_is_in_the_table_of_results():
    names = sorted(path.stem for path in (ROOT / "configs").glob("*.toml"))
    page = PAGES[ROOT / "docs" / "experiments.md"]
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == names


def test_every_script_that_is_named_exists():
    modules = set(re.findall(r"python -m\s(experiments[.\w]*)", "".join(PAGES.values())))
    for module in modules:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def test_what_the_page_of_the_notes_points_to_exists():
    page = PAGES[ROOT / "docs" / "notes.md"]
    pointed = re.findall(r"`((?:tests|jaxnn|configs|experiments)/[\w/.]+)(?:::(\w+))?`", page)
    assert len(pointed) > 40
    for path, name in pointed:
        assert not name or f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), name
        assert (ROOT / path).exists(), path
    themes = set(re.findall(r"gallery `(\w+)`", page))
    assert themes <= set(THEMES), themes - set(THEMES)
