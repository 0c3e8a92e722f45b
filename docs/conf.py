"""Settings of the book: ``sphinx-build -W -j auto docs build/book`` from the root of a checkout."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
# The programs of the pages run in processes of their own. They compile many small programs, most of
# which run once, and have many in common.
os.environ |= {
    "PYTHONPATH": str(ROOT),
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / "build" / "book_compiled"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}

import jaxnn  # noqa: E402

project = "jaxnn"
author = "The jaxnn authors"
copyright = "The jaxnn authors, Apache License 2.0"
release = jaxnn.__version__

extensions = ["myst_nb", "docs.extension"]
exclude_patterns = ["extension", "derivations"]
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / "build" / "book_cells")
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True

html_theme = "furo"
html_title = "jaxnn"
html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["book.css"]
html_copy_source = False
