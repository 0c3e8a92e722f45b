"""Convolution: the layers, their algorithms, the rule that chooses among them, their captures."""

from jaxnn.convolution.capture import ConvCapture, ConvTransposeCapture, JoinedConvCapture
from jaxnn.convolution.layers import conv, conv_transpose
from jaxnn.convolution.pooled import PooledConvCapture, conv_relu_max_pool
