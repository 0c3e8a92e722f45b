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


_make = jax.nn.initializers
_SCALED: dict[str, Callable[..., Callable]] = {
    "normal": _scaled(_make.normal, 0.01),
    "truncated_normal": _scaled(_make.truncated_normal, 0.01),
    "uniform": _scaled(_make.uniform, 0.01),
    "orthogonal": _scaled(_orthogonal, 1.0),
}
"""Those that take a scale."""
_BY_NAME: dict[str, Callable[..., Callable]] = {
    "zeros": lambda: _make.zeros,
    "ones": lambda: _make.ones,
    "glorot": _make.glorot_uniform,
    "glorot_uniform": _make.glorot_uniform,
    "glorot_normal": _make.glorot_normal,
    "he": _make.he_normal,
    "he_uniform": _make.he_uniform,
    "he_normal": _make.he_normal,
    "lecun": _make.lecun_normal,
    "lecun_uniform": _make.lecun_uniform,
    "lecun_normal": _make.lecun_normal,
    **_SCALED,
}


def initializer(given: Any) -> Callable:
    """The initialiser (key, shape, dtype) -> array that ``given`` stands for.

    Args:
        given: A function, returned as it is, or one of these names, a number in parentheses behind
            it being the scale:

            - ``zeros`` and ``ones``: all 0, all 1;
            - ``normal``: N(0, scale²), scale 0.01 unless given, as in ``"normal(1.0)"``;
            - ``truncated_normal``: as ``normal``, with nothing beyond 2 · scale from 0: what is
              left deviates by 0.88 · scale;
            - ``uniform``: between 0 and the scale, which is 0.01 unless given;
            - ``glorot``: variance 2 / (in + out) (Glorot and Bengio, 2010);
            - ``he``: variance 2 / in (He et al., 2015);
            - ``lecun``: variance 1 / in (LeCun et al., 1998);
            - ``orthogonal``: orthonormal columns or rows, times the scale (Saxe et al., 2014).

            ``glorot_uniform`` and ``glorot_normal`` say the distribution, as do ``he_…`` and
            ``lecun_…``; ``glorot`` is uniform, ``he`` and ``lecun`` are normal. Those normal ones
            are truncated at two deviations, and scaled to have their variance nevertheless.

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
    if name not in _SCALED:
        raise ValueError(f"initializer: {name!r} takes no scale, got {given!r}")
    try:
        scale = float(rest.removesuffix(")") if rest.endswith(")") else "")
    except ValueError:
        raise ValueError(
            f"initializer: expected a scale as in '{name}(0.01)', got {given!r}"
        ) from None
    return _SCALED[name](scale)
