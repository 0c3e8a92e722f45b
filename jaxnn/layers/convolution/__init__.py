"""Convolution: the layers, their algorithms, the rule that chooses among them, their captures."""

from jaxnn.layers.convolution.capture import ConvCapture, ConvTransposeCapture, JoinedConvCapture
from jaxnn.layers.convolution.layers import conv, conv_transpose
from jaxnn.layers.convolution.pooled import PooledConvCapture, conv_relu_max_pool
