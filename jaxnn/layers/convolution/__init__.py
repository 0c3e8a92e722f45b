"""Convolution: the layers and their captures."""

from jaxnn.layers.convolution.capture import (
    ConvCapture,
    ConvTransposeCapture,
    JoinedConvCapture,
    PooledConvCapture,
)
from jaxnn.layers.convolution.layers import conv, conv_relu_max_pool, conv_transpose
