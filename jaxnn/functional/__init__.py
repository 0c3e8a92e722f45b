"""Layers and losses as plain functions of arrays, differentiated by their hand-derived passes.

    from jaxnn import functional

    functional.sigmoid(2), functional.softmax(a, axis=0), functional.conv(x, weight, strides=2)

A function has the name of the layer or loss that it is, and its options as arguments; parameters
are arguments, too. `jax.grad` of it runs `Layer.backward` and `Loss.gradient`. Shapes are as
general as the function allows: what needs no batch takes none. Reverse mode alone: `jax.jvp`
refuses these functions.
"""

from jaxnn.functional.activations import (
    celu,
    elu,
    geglu,
    gelu,
    glu,
    hard_sigmoid,
    hard_swish,
    hard_tanh,
    heaviside,
    leaky_relu,
    log_sigmoid,
    log_softmax,
    mish,
    normalize,
    prelu,
    relu,
    relu6,
    selu,
    sigmoid,
    silu,
    softmax,
    softplus,
    softsign,
    swiglu,
    tanh,
)
from jaxnn.functional.dot_products import (
    attention,
    rotary,
)
from jaxnn.functional.linear_maps import (
    bilinear,
    dense,
    embedding,
    embedding_bag,
    linear,
    positional_embedding,
)
from jaxnn.functional.losses import (
    binary_cross_entropy,
    categorical_cross_entropy,
    contrastive,
    cosine_embedding,
    ctc,
    focal,
    gaussian_nll,
    half_squared_error,
    hinge,
    huber,
    kl_divergence,
    mean_absolute_error,
    mean_squared_error,
    negative_log_likelihood,
    poisson_nll,
    projected_cross_entropy,
    quantile,
    sequence_loss,
    sigmoid_binary_cross_entropy,
    softmax_cross_entropy,
    softmax_focal,
    sum_absolute_error,
    sum_squared_error,
    triplet_margin,
)
from jaxnn.functional.noise import (
    dropout,
)
from jaxnn.functional.normalization import (
    group_norm,
    instance_norm,
    layer_norm,
    rms_norm,
)
from jaxnn.functional.recurrent import (
    gru,
    lstm,
    rnn,
)
from jaxnn.functional.windows import (
    adaptive_avg_pool,
    adaptive_max_pool,
    avg_pool,
    conv,
    conv_relu_max_pool,
    conv_transpose,
    global_avg_pool,
    global_max_pool,
    max_pool,
    pad,
    pixel_shuffle,
    pixel_unshuffle,
    random_crop,
    random_flip,
    random_shift,
    resize,
    scattering,
    upsample,
)
