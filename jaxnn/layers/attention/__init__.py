"""Attention: multi-head, self and cross, in the textbook form and block by block."""

from jaxnn.layers.attention.layer import attention
from jaxnn.layers.attention.maps import attention_maps
