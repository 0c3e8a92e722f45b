"""jaxnn: neural networks in JAX whose backward pass is an object.

Every layer has a forward pass and a backward pass written by hand, both pure functions; every
hand-derived gradient can be checked against `jax.grad`.

The public names stand in `__init__.pyi`. Each is imported when it is first used, so that
``import jaxnn`` itself takes no time.
"""

import lazy_loader

from jaxnn._moved import install as _find_moved_modules

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

_find_moved_modules()
