# The public names of `jaxnn`. Each is imported when it is first used.

from . import (
    core as core,
    data as data,
    decoding as decoding,
    functional as functional,
    interop as interop,
    kernels as kernels,
    layers as layers,
    learning as learning,
    losses as losses,
    rewrites as rewrites,
    sharding as sharding,
    statistics as statistics,
    training as training,
)
from .core.adapters import (
    ParameterFree as ParameterFree,
    Pointwise as Pointwise,
    layer as layer,
    parameter_free as parameter_free,
    pointwise as pointwise,
)
from .core.captures import (
    AffineCapture as AffineCapture,
    ContractedCapture as ContractedCapture,
    EmbeddingCapture as EmbeddingCapture,
    LinearCapture as LinearCapture,
    StackedCapture as StackedCapture,
    contract as contract,
    join as join,
)
from .core.checking import (
    check_gradients as check_gradients,
    check_layer as check_layer,
)
from .core.combinators import (
    add as add,
    concatenate as concatenate,
    fork as fork,
    identity as identity,
    multiply as multiply,
    on as on,
    parallel as parallel,
    repeat as repeat,
    select as select,
    serial as serial,
    share as share,
    skip as skip,
)
from .core.contract import (
    Capture as Capture,
    Layer as Layer,
    Loss as Loss,
)
from .core.gradients import (
    BackwardPass as BackwardPass,
    autodiff as autodiff,
    backprop as backprop,
    backward_pass as backward_pass,
    numerical as numerical,
)
from .core.initializers import initializer as initializer
from .core.networks import (
    fuse as fuse,
    in_inference_mode as in_inference_mode,
    label as label,
    plain as plain,
    rewrite as rewrite,
    summing as summing,
    walk as walk,
)
from .core.pytrees import register_dataclass as register_dataclass
from .core.residuals import Static as Static
from .core.summary import (
    Row as Row,
    Summary as Summary,
    summarize as summarize,
)
from .layers.activations import (
    celu as celu,
    elu as elu,
    gelu as gelu,
    hard_sigmoid as hard_sigmoid,
    hard_swish as hard_swish,
    hard_tanh as hard_tanh,
    heaviside as heaviside,
    leaky_relu as leaky_relu,
    log_sigmoid as log_sigmoid,
    log_softmax as log_softmax,
    mish as mish,
    prelu as prelu,
    relu as relu,
    relu6 as relu6,
    selu as selu,
    sigmoid as sigmoid,
    silu as silu,
    softmax as softmax,
    softplus as softplus,
    softsign as softsign,
    tanh as tanh,
)
from .layers.attention import attention as attention
from .layers.augmentation import (
    center_crop as center_crop,
    random_crop as random_crop,
    random_flip as random_flip,
    random_shift as random_shift,
)
from .layers.bilinear import (
    BilinearCapture as BilinearCapture,
    bilinear as bilinear,
)
from .layers.convolution import (
    ConvCapture as ConvCapture,
    ConvTransposeCapture as ConvTransposeCapture,
    JoinedConvCapture as JoinedConvCapture,
    PooledConvCapture as PooledConvCapture,
    conv as conv,
    conv_relu_max_pool as conv_relu_max_pool,
    conv_transpose as conv_transpose,
)
from .layers.dense import dense as dense
from .layers.dropout import dropout as dropout
from .layers.embedding import (
    embedding as embedding,
    embedding_bag as embedding_bag,
)
from .layers.gating import (
    geglu as geglu,
    glu as glu,
    swiglu as swiglu,
)
from .layers.normalization import (
    batch_norm as batch_norm,
    batch_norm_at_rest as batch_norm_at_rest,
    group_norm as group_norm,
    instance_norm as instance_norm,
    layer_norm as layer_norm,
    normalize as normalize,
    rms_norm as rms_norm,
)
from .layers.padding import pad as pad
from .layers.pooling import (
    adaptive_avg_pool as adaptive_avg_pool,
    adaptive_max_pool as adaptive_max_pool,
    avg_pool as avg_pool,
    global_avg_pool as global_avg_pool,
    global_max_pool as global_max_pool,
    max_pool as max_pool,
)
from .layers.positions import positional_embedding as positional_embedding
from .layers.recurrent import (
    bidirectional as bidirectional,
    gru as gru,
    lstm as lstm,
    rnn as rnn,
)
from .layers.reparametrization import (
    ReparametrizedCapture as ReparametrizedCapture,
    spectral_norm as spectral_norm,
    weight_norm as weight_norm,
)
from .layers.reshaping import (
    flatten as flatten,
    pixel_shuffle as pixel_shuffle,
    pixel_unshuffle as pixel_unshuffle,
    reshape as reshape,
    split as split,
)
from .layers.resizing import (
    resize as resize,
    upsample as upsample,
)
from .layers.reversible import reversible as reversible
from .layers.scattering import scattering as scattering
from .layers.transformer import (
    feed_forward as feed_forward,
    transformer_block as transformer_block,
)
from .learning.accumulation import accumulate as accumulate
from .learning.feedback import (
    direct_feedback_alignment as direct_feedback_alignment,
    feedback_alignment as feedback_alignment,
    kolen_pollack as kolen_pollack,
    quantized as quantized,
    sign_concordant as sign_concordant,
    straight_through as straight_through,
)
from .learning.local_losses import (
    auxiliary_heads as auxiliary_heads,
    local_losses as local_losses,
)
from .losses.classification import (
    categorical_cross_entropy as categorical_cross_entropy,
    kl_divergence as kl_divergence,
    negative_log_likelihood as negative_log_likelihood,
    softmax_cross_entropy as softmax_cross_entropy,
    softmax_focal as softmax_focal,
)
from .losses.contrastive import contrastive as contrastive
from .losses.ctc import ctc as ctc
from .losses.elementwise import (
    binary_cross_entropy as binary_cross_entropy,
    half_squared_error as half_squared_error,
    hinge as hinge,
    huber as huber,
    mean_absolute_error as mean_absolute_error,
    mean_squared_error as mean_squared_error,
    quantile as quantile,
    sigmoid_binary_cross_entropy as sigmoid_binary_cross_entropy,
    sum_absolute_error as sum_absolute_error,
    sum_squared_error as sum_squared_error,
)
from .losses.likelihoods import (
    focal as focal,
    gaussian_nll as gaussian_nll,
    poisson_nll as poisson_nll,
)
from .losses.pairs import (
    cosine_embedding as cosine_embedding,
    triplet_margin as triplet_margin,
)
from .losses.projection import (
    projected_cross_entropy as projected_cross_entropy,
    projection as projection,
    projection_at_rest as projection_at_rest,
)
from .losses.sequences import sequence_loss as sequence_loss
from .rewrites.compress import compress as compress
from .rewrites.deltas import low_precision_deltas as low_precision_deltas
from .rewrites.precision import (
    POLICIES as POLICIES,
    Policy as Policy,
    with_precision as with_precision,
)
from .rewrites.recompute import recompute as recompute
from .rewrites.sampled import sampled as sampled, sampling_variance as sampling_variance

__version__: str
