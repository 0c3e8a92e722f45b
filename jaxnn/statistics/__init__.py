"""Statistics of a backward pass: what its captures say beyond the gradient.

Each quantity is one function of captures. By itself it makes the pass that it needs; several come
from one pass, in training from that of the gradient:

    norms = per_example_squared_norms(network, loss)(params, state, x, target, key, weights)
    both = measure(network, loss, norms=per_example_squared_norms, variance=gradient_variance)
    gradient = measuring(network, loss, variance=gradient_variance)
    norms = per_example_squared_norms.of(captures)

One of your own is such a function under `quantity`. What couples the examples of a batch, batch
norm in training, is refused; `jaxnn.in_inference_mode` gives the network for which these quantities
are defined. An example of weight 0 counts as if it were not there, whatever it holds.
"""

from jaxnn.statistics.columns import ColumnsCapture, hessian_root_captures
from jaxnn.statistics.examples import (
    dot_products,
    per_example_gradients,
    per_example_squared_norms,
    products_with,
)
from jaxnn.statistics.gauss_newton import diagonal_ggn, fisher_information, ggn_vector_product
from jaxnn.statistics.hessian import hessian_diagonal, hessian_trace, hessian_vector_product
from jaxnn.statistics.in_run import in_run_values
from jaxnn.statistics.influence import GgnInverse, influence
from jaxnn.statistics.kernel import empirical_ntk, ntk_diagonal, pseudo_ntk
from jaxnn.statistics.kfac import kfac_factors
from jaxnn.statistics.kronecker import Kronecker, diagonal_curvature, ekfac, kronecker
from jaxnn.statistics.laplace import Laplace, laplace
from jaxnn.statistics.moments import (
    GradientNoise,
    gradient_noise,
    gradient_noise_scale,
    gradient_second_moment,
    gradient_signal_to_noise,
    gradient_variance,
)
from jaxnn.statistics.over_batches import blocks, over_batches
from jaxnn.statistics.projections import projected_gradients, trak
from jaxnn.statistics.quantities import Measured, Quantity, measure, measuring, quantity
from jaxnn.statistics.scores import influence_scores, self_influence
from jaxnn.statistics.spectrum import (
    Eigenpairs,
    Estimate,
    spectral_density,
    top_eigenpairs,
    trace_estimate,
)
from jaxnn.statistics.trees import scaled
