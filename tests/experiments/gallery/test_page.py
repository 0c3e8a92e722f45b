"""The gallery's frame: the page, and what it refuses."""

import importlib
import re

import matplotlib.figure
import pytest
from matplotlib import font_manager

from experiments import gallery
from experiments.gallery import norms
from experiments.gallery import result as contract
from experiments.gallery.result import Table
from experiments.support import style

main = importlib.import_module("experiments.gallery.__main__")


def test_the_page_shows_figures_numbers_and_derivation_and_loads_nothing_else(tmp_path):
    main.main(tmp_path, only=("norms",))
    page = (tmp_path / "index.html").read_text()
    assert "3.60555128" in page
    assert "Broadcasting" in page
    assert "√(Σⱼ xⱼ²)" in page
    for source in re.findall(r'src="([^"]*)"', page):
        assert (tmp_path / source).is_file()
    assert not re.search(r"https?:|<script|@import|url\(", page)


def test_every_theme_has_a_title_a_derivation_and_formulas():
    for theme in gallery.THEMES:
        title, derivation = contract.title_and_derivation(contract.load(theme))
        assert title
        assert derivation
        assert contract.load(theme).FORMULAS


def test_formulas_are_typeset_in_pieces():
    page = importlib.import_module("experiments.gallery.page")
    section = page.Section("a", "a", "x", norms.run(), (), (), 0.0, "", (r"a_1, \quad b < 2",))
    section = section._replace(result=section.result._replace(pictures=()))
    shown = page.page([section], "&")
    assert shown.count("<math") == 2
    assert "<msub>" in shown
    assert "< 2" not in shown
    assert "xmlns" not in shown


def test_an_unknown_theme_lists_the_valid_ones(tmp_path):
    with pytest.raises(SystemExit, match=r"unknown theme 'norm': did you mean 'norms'\?.*losses"):
        main.main(tmp_path / "new", only=("norm",))
    assert not (tmp_path / "new").exists()


def test_a_folder_with_a_gallery_is_refused_and_left_as_it_was(tmp_path):
    (tmp_path / "index.html").write_text("older")
    with pytest.raises(SystemExit, match=r"already holds index.html.*--output.*--overwrite"):
        main.main(tmp_path, only=("norms",))
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    main.main(tmp_path, only=("norms",), overwrite=True)
    assert (tmp_path / "index.html").read_text() != "older"


def test_a_file_as_output_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="--output: expected a folder that can be written"):
        main.main(tmp_path / "file", only=("norms",))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ModuleNotFoundError("no", name="sklearn"), "package sklearn: pip install"),
        (ImportError("data set 'wine' needs sklearn: install it so"), "install it so"),
        (FileNotFoundError("data set 'x' is not there: get it so"), "get it so"),
    ],
)
def test_what_is_missing_is_left_out_and_the_rest_still_runs(tmp_path, monkeypatch, error, said):
    def fail():
        raise error

    monkeypatch.setattr(contract.load("losses"), "run", fail)
    main.main(tmp_path, only=("losses", "norms"))
    page = (tmp_path / "index.html").read_text()
    assert said in page
    assert "norms-rows.png" in page


def test_a_theme_that_fails_is_reported_by_page_and_exit_status(tmp_path, monkeypatch):
    monkeypatch.setattr(norms, "run", lambda: 1 / 0)
    with pytest.raises(SystemExit, match="1"):
        main.main(tmp_path, only=("norms",))
    assert "ZeroDivisionError" in (tmp_path / "index.html").read_text()


def test_text_on_the_page_is_escaped():
    page = importlib.import_module("experiments.gallery.page")
    section = page.Section("a", "<b>", "x < y", None, (), ("1 < 2",), 0.0)
    assert "<b>" not in page.page([section], "&")


def test_a_table_aligns_cells_of_several_lines():
    table = Table("title", ("name", "value"), [("matrix", [[1.0], [2.0]]), ("number", 0.5)])
    assert str(table).split("\n") == [
        "title",
        "  name    value",
        "  matrix  [[1.],",
        "           [2.]]",
        "  number  0.5",
    ]


def test_names_in_prose_are_code_and_cells_of_numbers_are_not_broken():
    page = importlib.import_module("experiments.gallery.page")
    table = Table("t", ("way", "value"), [("by a unit for each", "3.56e-05"), ("x", [1, 2])])
    result = contract.Result("what `jax.grad` says", (), (table,))
    shown = page.page([page.Section("a", "a", "x", result, (), (), 0.0)], "&")
    assert "what <code>jax.grad</code> says" in shown
    assert "<td>by a unit for each</td>" in shown
    assert '<td class="array">3.56e-05</td>' in shown
    assert '<td class="array">[1, 2]</td>' in shown


def test_a_font_that_was_installed_after_the_list_was_made_is_found(monkeypatch):
    path = font_manager.findfont("DejaVu Sans")
    monkeypatch.setattr(style, "WANTED", ("DejaVu Sans",))
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [])
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [path, "/no/such/font.ttf"])
    assert style._fonts() == ["DejaVu Sans"]


def test_a_figure_is_not_written_over_another_unless_told(tmp_path):
    figure, _ = style.figure()
    assert isinstance(figure, matplotlib.figure.Figure)
    path = style.save(figure, tmp_path / "a.png")
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"a\.png"):
        style.save(figure, path)
    assert path.read_bytes() == before
    style.save(figure, path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
