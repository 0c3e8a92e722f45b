"""jaxnn and models that are written with other libraries, both ways."""

from jaxnn.interop.any_function import Explanation, captures, explain, layer
from jaxnn.interop.exporting import Program, export_function, export_predict, load_exported
from jaxnn.interop.functions import conv_general_dilated, differentiable, max_pool
from jaxnn.interop.models import from_equinox, from_linen, from_nnx, to_model
from jaxnn.interop.modules import as_equinox_module, as_nnx_module
from jaxnn.interop.weights.flax import from_flax_params, to_flax_params
from jaxnn.interop.weights.pytorch import from_state_dict, to_state_dict
from jaxnn.interop.weights.tensors import load_safetensors, read_safetensors, save_safetensors
