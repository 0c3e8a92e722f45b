"""The command ``jaxnn``, and what a wheel and an sdist hold for it."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import warnings
import zipfile
from pathlib import Path

import pytest

import jaxnn
import jaxnn_command
from experiments.support.calling import command
from jaxnn.data.optional import EXTRAS

ROOT = Path(__file__).parents[2]


def jaxnn_says(*arguments, **options):
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | options.pop("env", {})
    return subprocess.run(
        [sys.executable, "-P", "-m", "jaxnn_command", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        **options,
    )


def test_alone_it_lists_every_command_with_a_line_each_without_importing_them():
    done = jaxnn_says(env={"JAX_PLATFORMS": "nothing"})
    scripts = {path.stem for path in (ROOT / "experiments").glob("*.py")} - {"__init__"}
    rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[2:])
    assert rows.keys() == {*scripts, "gallery"}
    assert all(len(line) > 20 and line[-1] in ".?" for line in rows.values()), rows
    assert rows["dates"].startswith("Translate dates")  # of the module that does it
    loaded = "import sys, jaxnn_command as c; c.main(); print('jax' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    listed = subprocess.run(
        [sys.executable, "-c", loaded], env=environment, capture_output=True, text=True
    )
    assert listed.stdout == done.stdout + "False\n"


@pytest.mark.parametrize(
    ("said", "meant"),
    [("trian", "train"), ("evalute", "evaluate"), ("second-order", "second_order")],
)
def test_an_unknown_command_is_refused_with_the_nearest(monkeypatch, said, meant):
    monkeypatch.setattr(sys, "argv", ["jaxnn", said])
    with pytest.raises(SystemExit, match=f"error: jaxnn: unknown command '{said}'.*{meant}"):
        jaxnn_command.main()


@pytest.mark.parametrize("name", ["experiments.train", "../train", "support.config", "", "os"])
def test_what_is_no_command_is_not_run(monkeypatch, name):
    monkeypatch.setattr(sys, "argv", ["jaxnn", name])
    with pytest.raises(SystemExit, match="unknown command"):
        jaxnn_command.main()


def test_the_version(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["jaxnn", "--version"])
    jaxnn_command.main()
    assert capsys.readouterr().out == f"jaxnn {jaxnn.__version__}\n"


@pytest.fixture
def fail(monkeypatch, capsys):
    """What a command that ends with an error says, in this process, which stays as it was."""

    def run(*arguments):
        hooks = [(sys, "excepthook"), (sys, "unraisablehook"), (warnings, "formatwarning")]
        for module, name in hooks:
            monkeypatch.setattr(module, name, getattr(module, name))
        monkeypatch.setattr(sys, "path", [*sys.path])
        monkeypatch.setattr(sys, "argv", ["jaxnn", *arguments])
        monkeypatch.setattr(os, "environ", os.environ.copy())
        with pytest.raises(SystemExit):
            jaxnn_command.main()
        return capsys.readouterr().err

    return run


def test_configurations_are_found_from_any_folder(fail):
    said = fail("train", "wine_mpl")
    assert "error: unknown config 'wine_mpl': did you mean 'wine_mlp'?" in said


def test_a_message_says_what_was_typed(fail):
    assert command("train") == "python -m experiments.train"
    assert "expected a run folder: jaxnn evaluate runs/NAME" in fail("evaluate")


@pytest.fixture
def theirs(tmp_path):
    """A working folder with a package experiments of its own."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/__init__.py").write_text("raise SystemExit('theirs')")
    return tmp_path


def test_a_process_that_a_command_starts_runs_our_experiments(fail, theirs):
    fail("evaluate")
    child = [sys.executable, "-m", "experiments.support.calling"]
    subprocess.run(child, cwd=theirs, env=os.environ, check=True)


def test_a_package_that_is_missing_is_named_with_the_remedy(theirs):
    (theirs / "packages").mkdir()
    (theirs / "packages/tyro.py").write_text("raise ModuleNotFoundError('no', name='tyro')")
    paths = os.pathsep.join([str(theirs / "packages"), str(ROOT)])
    done = jaxnn_says("check", env={"PYTHONPATH": paths}, cwd=theirs)
    assert done.returncode == 1
    assert done.stderr == (
        "check: loading JAX …\n"
        'error: jaxnn check needs the package tyro: pip install "jaxnn[experiments]"\n'
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The names of the files in a wheel and an sdist, and the wheel's metadata."""
    pytest.importorskip("hatchling", reason="hatchling, of the extra test, builds the wheel")
    folder = tmp_path_factory.mktemp("dist")
    builds = "import sys, hatchling.build as b; b.build_{}(sys.argv[1])"
    for kind in ("wheel", "sdist"):
        subprocess.run([sys.executable, "-c", builds.format(kind), folder], cwd=ROOT, check=True)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = f"jaxnn-{jaxnn.__version__}.dist-info/"
        metadata = archive.read(f"{info}METADATA").decode()
        assert "jaxnn = jaxnn_command:main" in archive.read(f"{info}entry_points.txt").decode()
        assert f"{info}licenses/LICENSE" in names
    with tarfile.open(sdist) as archive:
        return names, {name.partition("/")[2] for name in archive.getnames()}, metadata


def test_an_error_names_an_extra_that_there_is():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    sources = [path.read_text() for path in ROOT.glob("jaxnn*/**/*.py")]
    named = {name for text in sources for name in re.findall(r"pip install .jaxnn\[(\w+)\]", text)}
    assert {"checkpoints", "experiments"} <= named
    assert named | {"datasets", *EXTRAS.values()} <= project["optional-dependencies"].keys()


def test_the_citation_has_the_version():
    assert f"\nversion: {jaxnn.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def tracked(*patterns):
    return {
        path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern)
    }


def test_a_wheel_has_the_library_the_experiments_and_the_configurations(built):
    names, _, metadata = built
    inside = tracked("experiments/**/*.py", "configs/*.toml")
    wanted = tracked("jaxnn/**/*.py", "jaxnn/py.typed", "jaxnn_command/*.py")
    wanted |= {f"jaxnn_command/{name}" for name in inside}
    assert wanted <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"jaxnn", "jaxnn_command"}
    assert "License-Expression: Apache-2.0" in metadata
    assert f"Version: {jaxnn.__version__}\n" in metadata


def test_an_sdist_has_what_tests_and_builds_need(built):
    _, names, _ = built
    wanted = tracked("tests/**/*.py", "experiments/**/*.py", "configs/*.toml", "docs/*.md", "*.md")
    assert wanted | {"pyproject.toml", "LICENSE", "CITATION.cff"} <= names
