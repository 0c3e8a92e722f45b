"""Attention: multi-head, self and cross, in the textbook form and block by block."""

from jaxnn.attention.layer import attention
from jaxnn.attention.maps import attention_maps
