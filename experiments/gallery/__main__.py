"""Run the gallery: all themes into one folder with a page, ``python -m experiments.gallery``."""

import inspect
import sys
import time
import traceback
from pathlib import Path

import jax

from experiments.gallery import THEMES
from experiments.gallery.page import Section, page
from experiments.gallery.result import (
    INSTALL,
    existing_files,
    load,
    require_output,
    save_pictures,
    title_and_derivation,
)
from experiments.support.calling import command
from jaxnn.core.files import write_file
from jaxnn.core.validation import unknown_name


def main(
    output: Path = Path("runs/gallery"), only: tuple[str, ...] = (), overwrite: bool = False
) -> None:
    """Run the themes of the gallery and write index.html and their figures into one folder.

    Args:
        output: The folder.
        only: Names of themes; all of them unless given.
        overwrite: Replace a gallery that is already there.
    """
    for name in only:
        if name not in THEMES:
            sys.exit(unknown_name("theme", name, THEMES))
    themes = [theme for theme in THEMES if not only or theme in only]
    index = output / "index.html"
    existing = ([index] if index.exists() else []) + existing_files(output, themes)
    require_output(output, existing, overwrite)

    begin, failed, sections = time.perf_counter(), False, []
    for theme in themes:
        try:
            section = _run(theme, output, overwrite)
        except ModuleNotFoundError as error:
            section = _left_out(theme, f"needs the package {error.name}: {INSTALL}")
        except (ImportError, FileNotFoundError) as error:  # they say what to install or get
            section = _left_out(theme, str(error))
        except Exception as error:  # the other themes are still worth having
            traceback.print_exc()
            failed = True
            section = _left_out(theme, f"failed with {type(error).__name__}: {error}")
        for reason in section.left_out:
            print(f"{theme}: left out: {reason}", file=sys.stderr)
        print(f"{theme:20} {section.seconds:6.1f} s")
        sections.append(section)

    device = jax.devices()[0]
    machine = (
        f"Computed in {time.perf_counter() - begin:.0f} s with jax {jax.__version__} on "
        f"{jax.device_count()} {device.device_kind} device(s). Times shown were measured then."
    )
    write_file(index, lambda path: path.write_text(page(sections, machine)), overwrite=overwrite)
    print(f"wrote {index}")
    if failed:
        sys.exit(1)


def _run(theme: str, output: Path, overwrite: bool) -> Section:
    begin = time.perf_counter()
    module = load(theme)
    result = module.run()
    images = save_pictures(theme, result, output, overwrite=overwrite)
    seconds = time.perf_counter() - begin
    title, derivation = title_and_derivation(module)
    source = inspect.getsource(module)
    return Section(
        *(theme, title, derivation, result, images, result.left_out, seconds, source),
        module.FORMULAS,
    )


def _left_out(theme: str, reason: str) -> Section:
    return Section(theme, theme, "", None, (), (reason,), 0.0)


if __name__ == "__main__":
    try:
        import tyro
    except ModuleNotFoundError as missing:
        sys.exit(f"the gallery needs the package {missing.name}: {INSTALL}")
    tyro.cli(main, prog=command("gallery"))
