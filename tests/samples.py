"""One sample of every public layer, with an input; of every loss; and of networks of them."""

import jax
import jax.numpy as jnp
import numpy as np
from helpers import normal

import jaxnn as nn

ROWS = normal(0, (4, 6), np.float32)
SEQUENCE = normal(1, (4, 5, 6), np.float32)
IMAGES = normal(2, (4, 6, 6, 3), np.float32)
IDS = jnp.arange(20).reshape(4, 5) % 7
LENGTHS = jnp.asarray([5, 3, 1, 4])

LAYERS = {
    "dense": (nn.dense(3), ROWS),
    "dense with options": (
        nn.dense(3, use_bias=False, weight_init="normal(0.5)"),
        SEQUENCE,
    ),
    "conv": (nn.conv(4, (3, 3)), IMAGES),
    "conv with options": (
        nn.conv(6, 2, strides=2, padding=((1, 0), (0, 1)), dilation=2, groups=3, use_bias=False),
        IMAGES,
    ),
    "conv that continues x": (nn.conv(4, 3, strides=2, padding=2, padding_mode="edge"), IMAGES),
    "conv_transpose": (
        nn.conv_transpose(4, 3, strides=2, padding="VALID", output_padding=1),
        IMAGES,
    ),
    "conv_relu_max_pool": (nn.conv_relu_max_pool(nn.conv(4, (3, 3))), IMAGES),
    "embedding": (nn.embedding(7, 4), IDS),
    "embedding of halves": (nn.embedding(7, 4, dtype=jnp.float32), IDS),
    "embedding_bag": (nn.embedding_bag(7, 4, padding_id=3), IDS),
    "embedding_bag by maximum": (nn.embedding_bag(7, 4, "max", padding_id=0), IDS),
    "embedding_bag with weights": (
        nn.embedding_bag(7, 4, "sum"),
        (IDS, SEQUENCE[..., 0]),
    ),
    "projection_at_rest": (nn.projection_at_rest(3), ROWS),
    "bilinear": (nn.bilinear(3), (SEQUENCE, SEQUENCE[..., :2])),
    "batch_norm": (nn.batch_norm(0.8), ROWS),
    "batch_norm_at_rest": (nn.batch_norm_at_rest(0.8), ROWS),
    "layer_norm": (nn.layer_norm(1e-3), SEQUENCE),
    "group_norm": (nn.group_norm(3), IMAGES),
    "rms_norm": (nn.rms_norm(), SEQUENCE),
    "instance_norm": (nn.instance_norm(), IMAGES),
    "layer_norm over axes": (nn.layer_norm(axes=(1, 3), use_offset=False), IMAGES),
    "rms_norm over axes": (nn.rms_norm(axes=(-2, -1), use_offset=True), SEQUENCE),
    "group_norm without scale": (nn.group_norm(3, use_scale=False), IMAGES),
    "norm without parameters": (nn.layer_norm(use_scale=False, use_offset=False), SEQUENCE),
    "normalize": (nn.normalize(1), IMAGES),
    "rnn": (nn.rnn(3, activation="relu", reverse=True), SEQUENCE),
    "gru": (nn.gru(3, output="last"), SEQUENCE),
    "lstm": (nn.lstm(3, forget_bias=0.5), SEQUENCE),
    "lstm with lengths": (nn.lstm(3, output="all", truncate=2), (SEQUENCE, LENGTHS)),
    "lstm in chunks": (nn.lstm(3, chunk=2), SEQUENCE),
    "bidirectional": (nn.bidirectional(nn.gru(3), nn.gru(2, reverse=True)), SEQUENCE),
    "attention": (nn.attention(2), SEQUENCE),
    "attention in blocks": (
        nn.attention(2, groups=1, depth=4, causal=True, rotary=True, block=2),
        SEQUENCE,
    ),
    "attention with biases": (
        nn.attention(2, alibi=True, relative=2, softcap=2.0, block=2),
        (SEQUENCE, LENGTHS, normal(3, (4, 1, 5, 5), np.float32)),
    ),
    "attention to a past": (
        nn.attention(
            1, causal=True, rotary=True, rotary_features=4, interleaved=True, rotary_base=100.0
        ),
        (SEQUENCE[:, 2:], SEQUENCE),
    ),
    "attention with a mask": (nn.attention(2, use_bias=False), (SEQUENCE, LENGTHS)),
    "feed_forward": (nn.feed_forward(6, 8, activation=nn.silu()), SEQUENCE),
    "transformer_block": (nn.transformer_block(6, 2, hidden=8, norm="rms_norm"), SEQUENCE),
    "transformer_block without biases": (
        nn.transformer_block(
            6, 2, hidden=8, use_bias=False, norm=nn.rms_norm(1e-3), activation=nn.swiglu()
        ),
        SEQUENCE,
    ),
    "positional_embedding": (nn.positional_embedding(), SEQUENCE),
    "learned positions": (nn.positional_embedding("learned", 5), SEQUENCE),
    "identity": (nn.identity(), ROWS),
    "heaviside": (nn.heaviside(), ROWS),
    "sigmoid": (nn.sigmoid(), ROWS),
    "tanh": (nn.tanh(), ROWS),
    "relu": (nn.relu(), ROWS),
    "leaky_relu": (nn.leaky_relu(0.2), ROWS),
    "elu": (nn.elu(0.5), ROWS),
    "selu": (nn.selu(), ROWS),
    "gelu": (nn.gelu(), ROWS),
    "exact gelu": (nn.gelu(approximate=False), ROWS),
    "silu": (nn.silu(), ROWS),
    "softplus": (nn.softplus(), ROWS),
    "celu": (nn.celu(0.5), ROWS),
    "mish": (nn.mish(), ROWS),
    "softsign": (nn.softsign(), ROWS),
    "hard_tanh": (nn.hard_tanh(-0.5, 2.0), ROWS),
    "hard_sigmoid": (nn.hard_sigmoid(), ROWS),
    "hard_swish": (nn.hard_swish(), ROWS),
    "relu6": (nn.relu6(), ROWS),
    "log_sigmoid": (nn.log_sigmoid(), ROWS),
    "prelu": (nn.prelu(), IMAGES),
    "prelu by channel": (nn.prelu(0.1, per_channel=True), SEQUENCE),
    "glu": (nn.glu(1, nn.tanh()), ROWS),
    "swiglu": (nn.swiglu(), SEQUENCE),
    "geglu": (nn.geglu(approximate=False), ROWS),
    "softmax": (nn.softmax(), ROWS),
    "log_softmax": (nn.log_softmax(1), SEQUENCE),
    "max_pool": (nn.max_pool(3, strides=2, padding="SAME"), IMAGES),
    "avg_pool": (nn.avg_pool((2, 3), count_include_pad=True, padding=1), IMAGES),
    "avg_pool of windows that reach out": (
        nn.avg_pool(4, strides=3, padding=1, ceil_mode=True, count_include_pad=True),
        IMAGES,
    ),
    "max_pool of large windows": (nn.max_pool(5, strides=1, ceil_mode=True), IMAGES),
    "adaptive_max_pool": (nn.adaptive_max_pool((4, 2)), IMAGES),
    "adaptive_avg_pool": (nn.adaptive_avg_pool((4, 7)), IMAGES),
    "global_max_pool": (nn.global_max_pool(), IMAGES),
    "global_avg_pool": (nn.global_avg_pool(), IMAGES),
    "flatten": (nn.flatten(), IMAGES),
    "reshape": (nn.reshape(3, 36), IMAGES),
    "pixel_shuffle": (nn.pixel_shuffle((3, 1)), IMAGES),
    "pixel_unshuffle": (nn.pixel_unshuffle(2), IMAGES),
    "pad": (nn.pad(((1, 0), (0, 2))), IMAGES),
    "reflecting pad": (nn.pad(((1, 0), (0, 2)), mode="reflect"), IMAGES),
    "resize": (nn.resize((4, 9)), IMAGES),
    "resize by a scale": (nn.resize(scale=1.5, method="nearest"), IMAGES),
    "upsample": (nn.upsample((2, 1)), IMAGES),
    "scattering": (nn.scattering(2, 4), IMAGES),
    "dropout": (nn.dropout(0.3), ROWS),
    "spatial dropout": (nn.dropout(0.3, spatial=True), IMAGES),
    "random_flip": (nn.random_flip(), IMAGES),
    "random_crop": (nn.random_crop((4, 5)), IMAGES),
    "center_crop": (nn.center_crop((4, 5)), IMAGES),
    "random_shift": (nn.random_shift(2), IMAGES),
    "add": (nn.add(), (ROWS, ROWS)),
    "multiply": (nn.multiply(), (ROWS, ROWS + 1, ROWS - 1)),
    "split": (nn.split(3), SEQUENCE),
    "concatenate": (nn.concatenate(1), (SEQUENCE, SEQUENCE)),
    "select": (nn.select(1, 0), (ROWS, SEQUENCE, IMAGES)),
    "straight_through": (nn.straight_through(nn.heaviside(), nn.tanh()), ROWS),
}
"""Leaves and compounds. `projection`, whose y is no array, is among the networks."""

NETWORKS = {
    "serial": (nn.serial(nn.dense(4), nn.tanh(), nn.dense(3)), ROWS),
    "named serial": (nn.serial(stem=nn.dense(4), act=nn.tanh(), head=nn.dense(3)), ROWS),
    "fork": (nn.fork(nn.dense(3), nn.serial(nn.tanh(), nn.dense(2))), ROWS),
    "named fork": (nn.fork(left=nn.dense(3), right=nn.tanh()), ROWS),
    "parallel": (nn.parallel(nn.dense(3), nn.flatten()), (ROWS, SEQUENCE)),
    "on": (nn.on(1, nn.dense(3)), (ROWS, SEQUENCE)),
    "skip": (nn.skip(nn.dense(6), nn.gelu(False)), ROWS),
    "named skip": (nn.skip(linear=nn.dense(6), act=nn.gelu()), ROWS),
    "share": (nn.share(nn.serial(nn.dense(3), nn.relu())), (ROWS, ROWS + 1)),
    "repeat": (nn.repeat(nn.skip(nn.dense(6), nn.tanh()), 3), ROWS),
    "recompute": (nn.recompute(nn.serial(nn.dense(3), nn.tanh())), ROWS),
    "reversible": (
        nn.reversible(nn.serial(nn.dense(3), nn.tanh()), nn.serial(nn.dense(3), nn.dropout(0.2))),
        ROWS,
    ),
    "reversible by momentum": (
        nn.serial(*[nn.reversible(nn.serial(nn.dense(3), nn.tanh()), momentum=0.7)] * 2),
        ROWS,
    ),
    "compress": (nn.compress(nn.serial(nn.dense(8), nn.tanh(), nn.dropout(0.2)), 8), ROWS),
    "sampled": (nn.sampled(nn.dense(3), 0.4, "winner"), ROWS),
    "sampled by a schedule": (
        nn.sampled(nn.serial(nn.dense(3), nn.tanh()), ((0, 0.8), (2, 0.4)), "uniform"),
        ROWS,
    ),
    "low_precision_deltas": (
        nn.low_precision_deltas(nn.dense(3), "int8", scale="row", stochastic=True),
        ROWS,
    ),
    "weight_norm": (nn.weight_norm(nn.dense(3)), ROWS),
    "weight_norm of a convolution": (nn.weight_norm(nn.conv(3, (3, 3), groups=3), 0), IMAGES),
    "spectral_norm": (nn.serial(nn.spectral_norm(nn.dense(3)), nn.tanh()), SEQUENCE),
    "spectral_norm of a convolution": (nn.spectral_norm(nn.conv(4, (3, 3)), 2), IMAGES),
    "repeated norms of weights": (
        nn.repeat(nn.weight_norm(nn.spectral_norm(nn.dense(6))), 2),
        ROWS,
    ),
    "quantized": (nn.plain(nn.quantized(nn.dense(3), 3)), ROWS),
    "projection": (nn.projection(5), ROWS),
    "feedback_alignment": (
        nn.feedback_alignment(nn.serial(nn.dense(4), nn.tanh(), nn.dense(3))),
        ROWS,
    ),
    "sign_concordant": (nn.sign_concordant(nn.serial(nn.dense(4), nn.dense(3)), "fixed"), ROWS),
    "kolen_pollack": (nn.kolen_pollack(nn.dense(3), decay=0.1), ROWS),
    "direct_feedback_alignment": (
        nn.direct_feedback_alignment(nn.serial(nn.dense(4), nn.relu()), nn.dense(3)),
        ROWS,
    ),
    "named direct_feedback_alignment": (
        nn.direct_feedback_alignment(body=nn.dense(4), head=nn.dense(3)),
        ROWS,
    ),
    "auxiliary_heads": (
        nn.auxiliary_heads(
            nn.serial(nn.dense(4), nn.serial(nn.tanh(), nn.dropout(0.2)), nn.dense(3)),
            nn.parallel(nn.dense(3), nn.serial(nn.dense(2), nn.dense(3))),
        ),
        ROWS,
    ),
    "true gradient of a rule": (nn.plain(nn.feedback_alignment(nn.dense(3))), ROWS),
    "true gradient of direct feedback": (
        nn.plain(nn.direct_feedback_alignment(nn.dense(4), nn.dense(3))),
        ROWS,
    ),
    "with_precision": (
        nn.with_precision(nn.serial(nn.dense(4), nn.softmax()), nn.POLICIES["float16"]),
        ROWS,
    ),
    "cnn": (
        nn.serial(
            nn.conv(4, (3, 3)),
            nn.relu(),
            nn.max_pool(2),
            nn.flatten(),
            nn.dropout(0.1),
            nn.dense(3),
        ),
        IMAGES,
    ),
    "fused cnn": (
        nn.fuse(nn.serial(nn.conv(4, (3, 3)), nn.relu(), nn.max_pool(2), nn.flatten())),
        IMAGES,
    ),
    "residual cnn with batch norm": (
        nn.serial(nn.skip(nn.conv(3, (3, 3)), nn.batch_norm(), nn.relu()), nn.global_avg_pool()),
        IMAGES,
    ),
}

LOGITS, LABELS = normal(3, (4, 3), np.float32), jnp.asarray([0, 2, 1, 2])
NUMBERS = normal(4, (4, 3), np.float32)
BITS = jnp.asarray([[0, 1, 1], [1, 0, 0], [0, 0, 1], [1, 1, 1]])
LOG_SHARES = jax.nn.log_softmax(LOGITS)
VECTORS = tuple(normal(seed, (4, 3), np.float32) for seed in (5, 6, 7))

# With a prediction and a target.
LOSSES = {
    "mean_squared_error": (nn.mean_squared_error(), LOGITS, NUMBERS),
    "half_squared_error": (nn.half_squared_error(), LOGITS, NUMBERS),
    "sum_squared_error": (nn.sum_squared_error(), LOGITS, NUMBERS),
    "sum_absolute_error": (nn.sum_absolute_error(), LOGITS, NUMBERS),
    "mean_absolute_error": (nn.mean_absolute_error(), LOGITS, NUMBERS),
    "quantile": (nn.quantile(0.9), LOGITS, NUMBERS),
    "huber": (nn.huber(0.5), LOGITS, NUMBERS),
    "binary_cross_entropy": (nn.binary_cross_entropy(1e-3), jax.nn.sigmoid(LOGITS), BITS),
    "sigmoid_binary_cross_entropy": (nn.sigmoid_binary_cross_entropy(), LOGITS, BITS),
    "sigmoid_binary_cross_entropy with weights": (
        nn.sigmoid_binary_cross_entropy(pos_weight=(2.0, 0.5, 1.0)),
        LOGITS,
        BITS,
    ),
    "focal": (nn.focal(1.5, alpha=0.25), LOGITS, BITS),
    "poisson_nll": (nn.poisson_nll(full=True), LOGITS, jnp.abs(jnp.round(NUMBERS))),
    "gaussian_nll": (nn.gaussian_nll(delta=1e-3), (LOGITS, jnp.exp(VECTORS[0])), NUMBERS),
    "hinge": (nn.hinge(), LOGITS, 2 * BITS - 1),
    "categorical_cross_entropy": (nn.categorical_cross_entropy(), jnp.exp(LOG_SHARES), LABELS),
    "softmax_cross_entropy": (nn.softmax_cross_entropy(0.1), LOGITS, LABELS),
    "softmax_cross_entropy with weights": (
        nn.softmax_cross_entropy(class_weights=(1.0, 2.0, 0.5)),
        LOGITS,
        LABELS,
    ),
    "negative_log_likelihood": (
        nn.negative_log_likelihood(ignore_index=-1),
        LOG_SHARES,
        LABELS.at[1].set(-1),
    ),
    "kl_divergence": (
        nn.kl_divergence(log_target=True),
        LOG_SHARES,
        jax.nn.log_softmax(NUMBERS),
    ),
    "softmax_focal": (nn.softmax_focal(1.0), LOGITS, LABELS),
    "cosine_embedding": (nn.cosine_embedding(0.5), VECTORS[:2], jnp.asarray([1, -1, -1, 1])),
    "triplet_margin": (nn.triplet_margin(p=1.0, swap=True), VECTORS, None),
    "contrastive": (nn.contrastive(0.2, symmetric=True), VECTORS[:2], None),
    "projected_cross_entropy": (nn.projected_cross_entropy(16), LOGITS, LABELS),
    "ctc": (nn.ctc(2), SEQUENCE, jnp.asarray([[0, 1], [1, -1], [-1, -1], [3, 3]])),
    "sequence_loss": (
        nn.sequence_loss(nn.softmax_cross_entropy()),
        SEQUENCE,
        (IDS % 6, LENGTHS),
    ),
}
