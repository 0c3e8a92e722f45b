"""What experiments that compare several ways share: what they refuse, and how they report.

require_problems("feedback", options.problems, PROBLEMS, options.epochs)
report("feedback", options.output, compute, draw, overwrite=options.overwrite)
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.support import style
from experiments.support.files import as_json
from jaxnn.core.files import require_free, write_file
from jaxnn.core.validation import require_positive_integer, unknown_name


def require_problems(
    experiment: str, names: Iterable[str], problems: Iterable[str], epochs: int | None
) -> None:
    """Raise ValueError unless all names are among the problems and the epochs, if any, positive."""
    for name in names:
        if name not in problems:
            raise ValueError(unknown_name("problem", name, problems))
    if epochs is not None:
        require_positive_integer(experiment, "epochs", epochs)


def report(
    experiment: str,
    folder: Path,
    compute: Callable[[], dict[str, Any]],
    draw: Callable[[dict[str, Any]], Figure],
    *,
    overwrite: bool,
) -> None:
    """Compute results, write them to EXPERIMENT.json and their picture to EXPERIMENT.png.

    Raises:
        FileExistsError: before any work, if one of the two exists and ``overwrite`` is not set.
        OSError: the folder cannot be written.
    """
    numbers, picture = (folder / f"{experiment}.{end}" for end in ("json", "png"))
    require_free(numbers, picture, overwrite=overwrite)
    results = compute()
    text = as_json(results, indent=1, ensure_ascii=False) + "\n"
    write_file(numbers, lambda p: p.write_text(text, encoding="utf-8"), overwrite=overwrite)
    print(style.save(draw(results), picture, overwrite=overwrite))
