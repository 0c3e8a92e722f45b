import subprocess
import sys

import pytest

import jaxnn as nn


def test_importing_jaxnn_imports_no_jax():
    program = "import sys, jaxnn; sys.exit(bool({'jax', 'numpy', 'optax'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="dens"):
        nn.dens  # noqa: B018
