import jax
import pytest

from experiments.support import compiled


@pytest.fixture
def no_settings(monkeypatch, tmp_path):
    for name in (compiled.ENABLED, compiled.FOLDER):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JAXNN_CACHE", str(tmp_path / "cache"))
    names = (
        *("jax_compilation_cache_dir", "jax_compilation_cache_max_size"),
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {name: getattr(jax.config, name) for name in names}
    yield tmp_path / "cache"
    for name, value in before.items():
        jax.config.update(name, value)


def test_compiled_programs_are_kept_in_a_bounded_folder_for_this_processor(no_settings):
    compiled.keep_compiled_programs()
    (folder,) = (no_settings / "compiled").iterdir()
    assert jax.config.jax_compilation_cache_dir == str(folder)
    assert jax.config.jax_compilation_cache_max_size == compiled.MOST_BYTES


@pytest.mark.parametrize("name", [compiled.ENABLED, compiled.FOLDER])
def test_what_the_environment_says_of_the_cache_stays(no_settings, monkeypatch, name):
    monkeypatch.setenv(name, "0")
    before = jax.config.jax_compilation_cache_dir
    compiled.keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == before
    assert not no_settings.exists()


def test_a_folder_that_cannot_be_made_is_one_line_and_the_work_goes_on(no_settings, capsys):
    no_settings.write_text("a file")
    before = jax.config.jax_compilation_cache_dir
    compiled.keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == before
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: compiled programs are not kept: ")
