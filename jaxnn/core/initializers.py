"""Initialisers of parameters, by name or as functions of `jax.nn.initializers`."""

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from jaxnn.core.validation import require_number, unknown_name


def require_initializer(where: str, name: str, value: Any) -> Any:
    """The value; raises unless `initializer` knows it."""
    try:
        initializer(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}: {name}: {error}") from None
    return value


Initializer = Annotated[Callable | str, require_initializer]
"""(key, shape, dtype) -> array, or a name such as "he" or "normal(0.01)"."""


def _scaled(make: Callable, default: float) -> Callable[..., Callable]:
    def scaled(scale: float = default) -> Callable:
        require_number("initializer", "scale", scale, minimum=0)
        return make(scale)

    return scaled


def _orthogonal(scale: float) -> Callable:
    wide = jax.nn.initializers.orthogonal(scale)

    def init(key: Any, shape: Any, dtype: Any = jnp.float32):
        # There is no QR decomposition of half-precision matrices.
        return wide(key, shape, jnp.promote_types(dtype, jnp.float32)).astype(dtype)

    return init


_BY_NAME: dict[str, Callable[..., Callable]] = {
    "zeros": lambda: jax.nn.initializers.zeros,
    "normal": _scaled(jax.nn.initializers.normal, 0.01),
    "glorot": jax.nn.initializers.glorot_uniform,
    "he": jax.nn.initializers.he_normal,
    "lecun": jax.nn.initializers.lecun_normal,
    "orthogonal": _scaled(_orthogonal, 1.0),
}


def initializer(given: Any) -> Callable:
    """The initialiser (key, shape, dtype) -> array that ``given`` stands for.

    Args:
        given: A function, returned as it is, or one of these names, a number in parentheses behind
            it being the scale:

            - ``zeros``: all 0;
            - ``normal``: N(0, scale²), scale 0.01 unless given, as in ``"normal(1.0)"``;
            - ``glorot``: uniform, variance 2 / (in + out) (Glorot and Bengio, 2010);
            - ``he``: normal, variance 2 / in (He et al., 2015);
            - ``lecun``: normal, variance 1 / in (LeCun et al., 1998);
            - ``orthogonal``: orthonormal columns or rows, times the scale (Saxe et al., 2014).

    Raises:
        TypeError: ``given`` is neither callable nor a string.
        ValueError: the name or its scale is not valid.
    """
    if callable(given):
        return given
    if not isinstance(given, str):
        raise TypeError(f"initializer: expected a function or a name, got {given!r}")
    name, parenthesis, rest = given.partition("(")
    if name not in _BY_NAME:
        raise ValueError(unknown_name("initializer", name, _BY_NAME))
    if not parenthesis:
        return _BY_NAME[name]()
    if name not in ("normal", "orthogonal"):
        raise ValueError(f"initializer: {name!r} takes no scale, got {given!r}")
    try:
        scale = float(rest.removesuffix(")") if rest.endswith(")") else "")
    except ValueError:
        raise ValueError(
            f"initializer: expected a scale as in '{name}(0.01)', got {given!r}"
        ) from None
    return _BY_NAME[name](scale)
