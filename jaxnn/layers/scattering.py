"""A fixed front end for images: oriented waves at several scales, their modulus, its average."""

import math
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnn.core.adapters import ParameterFree
from jaxnn.core.residuals import Static
from jaxnn.core.validation import require_positive_integer
from jaxnn.kernels.convolution.choosing import run
from jaxnn.kernels.convolution.geometry import Geometry
from jaxnn.kernels.products import norm_along, sum_dtype
from jaxnn.layers.padding import filled, filled_backward
from jaxnn.layers.windows import Pairs, require_spatial

WIDTH, FREQUENCY = 0.8, 0.75 * math.pi
"""σ in pixels and |ξ| in radians a pixel, of the finest waves."""


class scattering(ParameterFree):
    """The scattering transform of orders 0 and 1 of images: features without parameters.

        y = x ⋆ φ  and, for each scale j < J and orientation l < L,  |x ⋆ ψ_jl| ⋆ φ,

    each kept at every 2^J-th row and column. x is [batch, height, width, channels], y [batch,
    ⌈height / 2^J⌉, ⌈width / 2^J⌉, channels · (1 + J L)]: for every channel x ⋆ φ, then the
    orientations of j = 0, of j = 1, …

    ψ_jl is a Morlet wave that runs at the angle π l / L, from row to row where l is 0; u is along
    it and v across:

        ψ(u, v) = s / (2π σ²) · e^(−(u² + s² v²) / 2σ²) · (e^(i ξ u) − β),
        σ = 0.8 · 2^j,  ξ = ¾ π / 2^j,  s = 4 / L, at most 1,

    with β so that it sums to 0, cut off at three deviations σ / s. φ is a Gaussian of deviation
    0.8 · 2^(J − 1) that sums to 1, cut off at four deviations. Images, and moduli, are mirrored at
    their borders; the moduli of scale j are computed at every 2^j-th row and column, and averaged
    over these. Shifts of x that are small against 2^J hardly change y, and small deformations
    little (Mallat, 2012; the waves are those of Bruna and Mallat, 2013). Nothing is learnt: before
    a private network it costs no budget (Tramèr and Boneh, 2021).

    Backward: convolutions and averages are linear, their transposes take a delta back. With
    z = x ⋆ ψ_jl a pair (re, im), the modulus gives ∂|z| / ∂z = z / |z|, and 0 where z = 0.
    Half-precision numbers are summed in float32.

    Args:
        scales: J.
        orientations: L, over half a turn: a wave and its opposite have the same modulus.

    Raises:
        TypeError: x is not floating-point, or an argument is no integer.
        ValueError: x has another rank, a spatial size is below 2^J, or an argument is below 1.
    """

    scales: Annotated[int, require_positive_integer]
    orientations: Annotated[int, require_positive_integer] = 8

    mixes = False

    def apply(self, x: Array):
        size = require_spatial(self.name, x, 2)
        if min(size) < 2**self.scales:
            raise ValueError(
                f"{self.name}: expected every spatial size of x to be at least 2^scales = "
                f"{2**self.scales}, got {size}; fewer scales fit"
            )
        image = _apart(x, 1).astype(sum_dtype(x.dtype))
        averages, phases = [_averaged(image, self._averages(size))], []
        for scale in range(self.scales):
            modulus, phase = _modulus(self._waves(image, scale))
            averages.append(_averaged(modulus, self._averages(size, scale)))
            # The examples on an axis of their own, as a rewrite of what is kept finds them.
            phases.append(phase.reshape(x.shape[0], x.shape[-1], *phase.shape[1:]))
        y = _together(jnp.concatenate(averages, -1), x.shape[0], x.shape[-1])
        return y.astype(x.dtype), (tuple(phases), Static(size))

    def pull_back(self, residuals: Any, dy: Array):
        phases, size = residuals[0], residuals[1].value
        features = 1 + self.scales * self.orientations
        deltas = _apart(dy, features).astype(sum_dtype(dy.dtype))
        dx = _averaged_backward(deltas[..., :1], self._averages(size))
        for scale, phase in enumerate(phases):
            first = 1 + scale * self.orientations
            of_average = deltas[..., first : first + self.orientations]
            of_modulus = _averaged_backward(of_average, self._averages(size, scale))
            phase = phase.reshape(deltas.shape[0], *phase.shape[2:])
            dx += self._waves_backward(_modulus_backward(phase, of_modulus), size, scale)
        return _together(dx, dy.shape[0], dy.shape[-1] // features).astype(dy.dtype)

    def _waves(self, image: Array, scale: int) -> Array:
        """x ⋆ ψ of a scale: the real parts of all orientations, then the imaginary ones."""
        filters = jnp.asarray(waves(scale, self.orientations), image.dtype)
        geometry = _geometry(image.shape[1:3], scale, filters.shape[0] // 2)
        image = filled(image, _around(filters.shape[0] // 2), "reflect", 0)
        return run("forward", None, image, filters, geometry)

    def _waves_backward(self, deltas: Array, size: tuple[int, ...], scale: int) -> Array:
        filters = jnp.asarray(waves(scale, self.orientations), deltas.dtype)
        reach = filters.shape[0] // 2
        dx = run("input_gradient", None, deltas, filters, _geometry(size, scale, reach))
        return filled_backward(dx, _around(reach), "reflect")

    def _averages(self, size: tuple[int, ...], scale: int = 0) -> list[np.ndarray]:
        """⋆ φ along rows and columns that are 2^scale apart, as matrices."""
        return [averages(-(-n // 2**scale), scale, self.scales) for n in size]


def waves(scale: int, orientations: int, deviations: float = 3) -> np.ndarray:
    """ψ [rows, columns, 1, 2 · orientations] of a scale; see `scattering`."""
    sigma, frequency = WIDTH * 2**scale, FREQUENCY / 2**scale
    slant = min(4 / orientations, 1)
    reach = math.ceil(deviations * sigma / slant)
    row, column = np.mgrid[-reach : reach + 1, -reach : reach + 1][..., None]
    angle = np.pi * np.arange(orientations) / orientations
    along = row * np.cos(angle) + column * np.sin(angle)
    across = column * np.cos(angle) - row * np.sin(angle)
    envelope = np.exp(-(along**2 + (slant * across) ** 2) / (2 * sigma**2))
    wave = envelope * np.exp(1j * frequency * along)
    wave -= envelope * wave.sum((0, 1)) / envelope.sum((0, 1))
    wave *= slant / (2 * np.pi * sigma**2)
    # A convolution of the library does not mirror its kernel: x ⋆ ψ has the conjugate, whose
    # modulus is the same.
    return np.concatenate([wave.real, wave.imag], -1)[:, :, None]


def averages(size: int, scale: int, scales: int) -> np.ndarray:
    """⋆ φ and every 2^scales-th pixel, as a matrix [out, size] for pixels 2^scale apart."""
    deviation, step = WIDTH * 2 ** (scales - 1 - scale), 2 ** (scales - scale)
    reach = math.ceil(4 * deviation)
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * deviation**2))
    sources = np.pad(np.arange(size), reach, "reflect")
    matrix = np.zeros((-(-size // step), size))
    for out, row in enumerate(matrix):
        np.add.at(row, sources[out * step : out * step + len(weights)], weights / weights.sum())
    return matrix


def _apart(a: Array, n: int) -> Array:
    """[batch, *size, channels · n] as [batch · channels, *size, n]."""
    batch, *size, features = a.shape
    channels = features // n
    a = jnp.moveaxis(a.reshape(batch, *size, channels, n), -2, 1)
    return a.reshape(batch * channels, *size, n)


def _together(a: Array, batch: int, channels: int) -> Array:
    """[batch · channels, *size, n] as [batch, *size, channels · n]."""
    _, *size, n = a.shape
    a = jnp.moveaxis(a.reshape(batch, channels, *size, n), 1, -2)
    return a.reshape(batch, *size, channels * n)


def _around(reach: int) -> Pairs:
    return ((reach, reach),) * 2


def _geometry(size: tuple[int, ...], scale: int, reach: int) -> Geometry:
    return Geometry(
        size=tuple(n + 2 * reach for n in size),
        output_size=tuple(-(-n // 2**scale) for n in size),
        kernel_size=(2 * reach + 1,) * 2,
        strides=(2**scale,) * 2,
        padding=((0, 0),) * 2,
        dilation=(1, 1),
        groups=1,
    )


def _modulus(z: Array) -> tuple[Array, Array]:
    """|z| of (re, im), and z / |z|, or 0 where z is."""
    pairs = z.reshape(*z.shape[:-1], 2, z.shape[-1] // 2)
    modulus = norm_along(pairs, (-2,))
    zero = modulus == 0
    phase = jnp.where(zero, 0, pairs / jnp.where(zero, 1, modulus))
    return jnp.squeeze(modulus, -2), phase.reshape(z.shape)


def _modulus_backward(phase: Array, dy: Array) -> Array:
    return phase * jnp.tile(dy, 2)


def _averaged(u: Array, matrices: list[np.ndarray]) -> Array:
    rows, columns = (jnp.asarray(matrix, u.dtype) for matrix in matrices)
    return jnp.einsum("ph,qw,bhwc->bpqc", rows, columns, u)


def _averaged_backward(dy: Array, matrices: list[np.ndarray]) -> Array:
    rows, columns = (jnp.asarray(matrix, dy.dtype) for matrix in matrices)
    return jnp.einsum("ph,qw,bpqc->bhwc", rows, columns, dy)
