"""Statistics of a backward pass: what its captures say beyond the gradient.

Each quantity is a function (network, loss) -> (params, state, x, target, key=None, weights=None) ->
result, and beside it a function of captures, ``…_of``, so that several come from one pass:

    result = jaxnn.backward_pass(network, loss)(params, state, x, target, key)
    norms, products = squared_norms_of(result.captures), dot_products_of(result.captures)

What couples the examples of a batch, batch norm in training, is refused;
`jaxnn.in_inference_mode` gives the network for which these quantities are defined.
"""

from jaxnn.statistics.columns import ColumnsCapture, hessian_root_captures
from jaxnn.statistics.examples import (
    dot_products,
    dot_products_of,
    gradients_of,
    per_example_gradients,
    per_example_squared_norms,
    products_with,
    squared_norms_of,
)
from jaxnn.statistics.gauss_newton import (
    diagonal_ggn,
    diagonal_of,
    fisher_information,
    ggn_vector_product,
)
from jaxnn.statistics.hessian import hessian_diagonal, hessian_trace, hessian_vector_product
from jaxnn.statistics.influence import influence
from jaxnn.statistics.kernel import empirical_ntk
from jaxnn.statistics.kfac import kfac_factors, kfac_of
from jaxnn.statistics.moments import (
    gradient_noise_scale,
    gradient_second_moment,
    gradient_signal_to_noise,
    gradient_variance,
    noise_of,
    second_moment_of,
    signal_to_noise_of,
    variance_of,
)
from jaxnn.statistics.trees import scaled
