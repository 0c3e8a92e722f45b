"""The library's convolution in all three passes: what GPU and TPU run best.

The input gradient is a convolution of the deltas, spread by the strides, with the mirrored kernel.
The weight gradient is a convolution in which batch and channels have changed places: the inputs are
its images (one for each input channel), the deltas its kernels, strides and dilation are exchanged.
"""

from jax import Array, lax

from jaxnn.kernels.convolution.geometry import Geometry, transposed_kernel
from jaxnn.kernels.products import sum_dtype


def forward(x: Array, weight: Array, geometry: Geometry) -> Array:
    """y from x [batch, *size, in] and the weight [*kernel, in of a group, out]."""
    return lax.conv_general_dilated(
        x,
        weight,
        geometry.strides,
        geometry.padding,
        rhs_dilation=geometry.dilation,
        dimension_numbers=_channels_last(geometry),
        feature_group_count=geometry.groups,
    )


def input_gradient(dy: Array, weight: Array, geometry: Geometry) -> Array:
    """dx from the deltas dy [batch, *output_size, out] and the weight."""
    transposed = geometry.transposed
    return lax.conv_general_dilated(
        dy,
        transposed_kernel(weight, geometry.groups),
        transposed.strides,
        transposed.padding,
        lhs_dilation=geometry.strides,
        rhs_dilation=geometry.dilation,
        dimension_numbers=_channels_last(geometry),
        feature_group_count=geometry.groups,
    )


def weight_gradient(x: Array, dy: Array, geometry: Geometry) -> Array:
    """∂L/∂weight [*kernel, in of a group, out] from x and the deltas dy."""
    axes = geometry.spatial_axes
    channels = geometry.dimensions + 1
    padding = tuple(
        (low, reach - 1 + spread - size - low)
        for reach, spread, size, (low, _) in zip(
            geometry.extent, geometry.spread_size, geometry.size, geometry.padding, strict=True
        )
    )
    return lax.conv_general_dilated(
        x,
        dy,
        geometry.dilation,
        padding,
        rhs_dilation=geometry.strides,
        dimension_numbers=lax.ConvDimensionNumbers(
            (channels, 0, *axes),
            (channels, 0, *axes),
            (geometry.dimensions, channels, *range(geometry.dimensions)),
        ),
        batch_group_count=geometry.groups,
        preferred_element_type=sum_dtype(dy.dtype),
    ).astype(dy.dtype)


def _channels_last(geometry: Geometry) -> lax.ConvDimensionNumbers:
    axes, channels = geometry.spatial_axes, geometry.dimensions + 1
    kernel = (channels, geometry.dimensions, *range(geometry.dimensions))
    return lax.ConvDimensionNumbers((0, channels, *axes), kernel, (0, channels, *axes))
