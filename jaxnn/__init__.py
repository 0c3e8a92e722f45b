"""jaxnn: neural networks in JAX whose backward pass is an object.

Every layer has a forward pass and a backward pass written by hand, both pure functions; every
hand-derived gradient can be checked against `jax.grad`.
"""

from jaxnn.accumulation import accumulate
from jaxnn.activations import (
    elu,
    gelu,
    heaviside,
    leaky_relu,
    log_softmax,
    relu,
    selu,
    sigmoid,
    silu,
    softmax,
    softplus,
    tanh,
)
from jaxnn.attention import attention
from jaxnn.augmentation import random_crop, random_flip, random_shift
from jaxnn.captures import (
    AffineCapture,
    Capture,
    ContractedCapture,
    EmbeddingCapture,
    LinearCapture,
    StackedCapture,
    contract,
    join,
)
from jaxnn.checking import check_gradients, check_layer
from jaxnn.combinators import (
    add,
    concatenate,
    fork,
    identity,
    on,
    parallel,
    repeat,
    select,
    serial,
    share,
    skip,
)
from jaxnn.convolution import (
    ConvCapture,
    ConvTransposeCapture,
    JoinedConvCapture,
    PooledConvCapture,
    conv,
    conv_relu_max_pool,
    conv_transpose,
)
from jaxnn.ctc import ctc
from jaxnn.dense import dense
from jaxnn.dropout import dropout
from jaxnn.embedding import embedding
from jaxnn.feedback import (
    direct_feedback_alignment,
    feedback_alignment,
    kolen_pollack,
    sign_concordant,
    straight_through,
)
from jaxnn.fusing import fuse
from jaxnn.gradients import BackwardPass, autodiff, backprop, backward_pass, numerical
from jaxnn.initializers import initializer
from jaxnn.layer import (
    Layer,
    Loss,
    Static,
    in_inference_mode,
    label,
    parameter_free,
    pointwise,
    rewrite,
    walk,
)
from jaxnn.losses import (
    binary_cross_entropy,
    categorical_cross_entropy,
    half_squared_error,
    hinge,
    huber,
    mean_squared_error,
    sigmoid_binary_cross_entropy,
    softmax_cross_entropy,
    sum_absolute_error,
    sum_squared_error,
)
from jaxnn.normalization import batch_norm, group_norm, layer_norm, rms_norm
from jaxnn.pooling import avg_pool, global_avg_pool, global_max_pool, max_pool
from jaxnn.positions import positional_embedding
from jaxnn.projection import projected_cross_entropy, projection
from jaxnn.recompute import recompute
from jaxnn.recurrent import bidirectional, gru, lstm, rnn
from jaxnn.reshaping import flatten, reshape
from jaxnn.resizing import pad, upsample
from jaxnn.sequence_loss import sequence_loss
from jaxnn.summary import Row, Summary, summarize
from jaxnn.transformer import feed_forward, transformer_block
