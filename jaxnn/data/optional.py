"""Libraries that only data sets need, imported where they are used."""

import importlib
from typing import Any

EXTRAS = {"grain": "streaming", "pandas": "tables", "pyarrow": "tables", "PIL": "images"}
"""What installs a library, where that is not datasets."""


def require_library(module: str, purpose: str) -> Any:
    """The imported module, or an ImportError that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        top = module.split(".")[0]
        library = {"sklearn": "scikit-learn", "babel": "Babel", "PIL": "Pillow"}.get(top, module)
        extra = EXTRAS.get(top, "datasets")
        way = library if module == "openpyxl" else f'"jaxnn[{extra}]"'
        raise ImportError(f"{purpose} needs {library}: pip install {way}") from error
