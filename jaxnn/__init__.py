"""jaxnn: neural networks in JAX whose backward pass is an object.

Every layer has a forward pass and a backward pass written by hand, both pure functions; every
hand-derived gradient can be checked against `jax.grad`.
"""

import importlib

from jaxnn._moved import install as _find_moved_modules
from jaxnn.core.adapters import ParameterFree, Pointwise, layer, parameter_free, pointwise
from jaxnn.core.captures import (
    AffineCapture,
    ContractedCapture,
    EmbeddingCapture,
    LinearCapture,
    StackedCapture,
    contract,
    join,
)
from jaxnn.core.checking import check_gradients, check_layer
from jaxnn.core.combinators import (
    add,
    concatenate,
    fork,
    identity,
    multiply,
    on,
    parallel,
    repeat,
    select,
    serial,
    share,
    skip,
)
from jaxnn.core.contract import Capture, Layer, Loss
from jaxnn.core.gradients import BackwardPass, autodiff, backprop, backward_pass, numerical
from jaxnn.core.initializers import initializer
from jaxnn.core.networks import fuse, in_inference_mode, label, plain, rewrite, summing, walk
from jaxnn.core.residuals import Static
from jaxnn.core.summary import Row, Summary, summarize
from jaxnn.layers.activations import (
    celu,
    elu,
    gelu,
    hard_sigmoid,
    hard_swish,
    hard_tanh,
    heaviside,
    leaky_relu,
    log_sigmoid,
    log_softmax,
    mish,
    prelu,
    relu,
    relu6,
    selu,
    sigmoid,
    silu,
    softmax,
    softplus,
    softsign,
    tanh,
)
from jaxnn.layers.attention import attention
from jaxnn.layers.augmentation import center_crop, random_crop, random_flip, random_shift
from jaxnn.layers.bilinear import BilinearCapture, bilinear
from jaxnn.layers.convolution import (
    ConvCapture,
    ConvTransposeCapture,
    JoinedConvCapture,
    PooledConvCapture,
    conv,
    conv_relu_max_pool,
    conv_transpose,
)
from jaxnn.layers.dense import dense
from jaxnn.layers.dropout import dropout
from jaxnn.layers.embedding import embedding, embedding_bag
from jaxnn.layers.gating import geglu, glu, swiglu
from jaxnn.layers.normalization import (
    batch_norm,
    batch_norm_at_rest,
    group_norm,
    instance_norm,
    layer_norm,
    normalize,
    rms_norm,
)
from jaxnn.layers.padding import pad
from jaxnn.layers.pooling import (
    adaptive_avg_pool,
    adaptive_max_pool,
    avg_pool,
    global_avg_pool,
    global_max_pool,
    max_pool,
)
from jaxnn.layers.positions import positional_embedding
from jaxnn.layers.recurrent import bidirectional, gru, lstm, rnn
from jaxnn.layers.reparametrization import ReparametrizedCapture, spectral_norm, weight_norm
from jaxnn.layers.reshaping import flatten, pixel_shuffle, pixel_unshuffle, reshape, split
from jaxnn.layers.resizing import resize, upsample
from jaxnn.layers.reversible import reversible
from jaxnn.layers.transformer import feed_forward, transformer_block
from jaxnn.learning.accumulation import accumulate
from jaxnn.learning.feedback import (
    direct_feedback_alignment,
    feedback_alignment,
    kolen_pollack,
    sign_concordant,
    straight_through,
)
from jaxnn.losses.classification import (
    categorical_cross_entropy,
    kl_divergence,
    negative_log_likelihood,
    softmax_cross_entropy,
    softmax_focal,
)
from jaxnn.losses.contrastive import contrastive
from jaxnn.losses.ctc import ctc
from jaxnn.losses.elementwise import (
    binary_cross_entropy,
    half_squared_error,
    hinge,
    huber,
    mean_absolute_error,
    mean_squared_error,
    quantile,
    sigmoid_binary_cross_entropy,
    sum_absolute_error,
    sum_squared_error,
)
from jaxnn.losses.likelihoods import focal, gaussian_nll, poisson_nll
from jaxnn.losses.pairs import cosine_embedding, triplet_margin
from jaxnn.losses.projection import projected_cross_entropy, projection, projection_at_rest
from jaxnn.losses.sequences import sequence_loss
from jaxnn.rewrites.compress import compress
from jaxnn.rewrites.deltas import low_precision_deltas
from jaxnn.rewrites.precision import POLICIES, Policy, with_precision
from jaxnn.rewrites.recompute import recompute
from jaxnn.rewrites.sampled import sampled, sampling_variance

__version__ = "0.2.0"


def __getattr__(name: str):
    # Found at first use: most programs do without.
    if name == "functional":
        return importlib.import_module("jaxnn.functional")
    raise AttributeError(f"module 'jaxnn' has no attribute {name!r}")


_find_moved_modules()
