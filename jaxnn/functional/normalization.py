"""Normalisations, their scale and offset given as arguments."""

from collections.abc import Callable
from typing import Any

from jaxnn.functional.arrays import floats, given, last, run, run_along
from jaxnn.functional.making import called, function_of
from jaxnn.layers import normalization


def _over_axes(
    make: Callable, x: Any, scale: Any = None, offset: Any = None, *, axes: int | tuple = -1
):
    """``x`` has any shape with those axes, the first among them.

    Args:
        x: An array.
        scale: With the sizes of x along ``axes``; 1 unless given.
        offset: With the sizes of x along ``axes``; 0 unless given.
        axes: The axis that is normalised, from the first or, negative, from the last; or several,
            which are normalised together.
    """
    where = called(make)
    x = floats(where, "x", x, "[*axes, features]")
    several = axes if isinstance(axes, tuple | list) else (axes,)
    from_last = tuple(last(where, "every one of axes", axis, x) for axis in several)
    params = _params(where, scale, offset)
    layer = make(axes=from_last, use_scale="scale" in params, use_offset="offset" in params)
    return run_along(layer, params, x, *from_last)


def _over_positions(make: Callable, x: Any, scale: Any = None, offset: Any = None):
    """The first axis of ``x`` is the batch.

    Args:
        x: [batch, *positions, channels].
        scale: [channels]; 1 unless given.
        offset: [channels]; 0 unless given.
    """
    where = called(make)
    x = floats(where, "x", x, "[batch, *positions, channels]")
    params = _params(where, scale, offset)
    layer = make(use_scale="scale" in params, use_offset="offset" in params)
    return run(layer, params, x)


def _params(where: str, scale: Any, offset: Any) -> Any:
    arrays = {"scale": scale, "offset": offset}
    return given(
        **{
            name: None if a is None else floats(where, name, a, "[*features]")
            for name, a in arrays.items()
        }
    )


_OPTIONS = ("use_scale", "use_offset")

layer_norm = function_of(normalization.layer_norm, _over_axes, "axes", *_OPTIONS)
rms_norm = function_of(normalization.rms_norm, _over_axes, "axes", *_OPTIONS)
group_norm = function_of(normalization.group_norm, _over_positions, *_OPTIONS)
instance_norm = function_of(normalization.instance_norm, _over_positions, *_OPTIONS)
