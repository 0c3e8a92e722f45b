"""jaxnn and models that are written with other libraries, both ways."""

from jaxnn.interop.any_function import Explanation, captures, explain, layer
from jaxnn.interop.functions import conv_general_dilated, differentiable, max_pool
from jaxnn.interop.models import from_equinox, from_linen, from_nnx, to_model
