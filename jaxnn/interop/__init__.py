"""Hand-derived backward passes inside models that are written with other libraries."""

from jaxnn.interop.functions import conv_general_dilated, differentiable, max_pool
from jaxnn.interop.weights.tensors import load_safetensors, read_safetensors, save_safetensors
