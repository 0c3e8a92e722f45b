"""What result files hold: names of temporary ones, and JSON."""

import json
import math
import re
from pathlib import Path
from typing import Any


def leftovers(folder: Path) -> list[Path]:
    """The temporary files that a process killed inside `write_file` has left in the folder."""
    return [path for path in folder.glob(".*") if re.match(r"\.\d+-", path.name)]


def as_json(value: Any, **options: Any) -> str:
    """JSON, which has no numbers that are not finite: they become null."""
    return json.dumps(_finite(value), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
