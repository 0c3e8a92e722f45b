"""Transformer blocks, put together with the combinators."""

from functools import partial

from jaxnn.core.combinators import add, fork, on, select, serial, skip
from jaxnn.core.layer import Layer
from jaxnn.core.validation import (
    require_boolean,
    require_number,
    require_positive_integer,
    unknown_name,
)
from jaxnn.layers.activations import gelu
from jaxnn.layers.attention import attention
from jaxnn.layers.dense import dense
from jaxnn.layers.dropout import dropout as dropout_layer
from jaxnn.layers.normalization import layer_norm, rms_norm

_NORMS = {"layer_norm": layer_norm, "rms_norm": rms_norm}


def feed_forward(
    features: int,
    hidden: int | None = None,
    *,
    activation: Layer | None = None,
    dropout: float = 0.0,
    use_bias: bool = True,
) -> Layer:
    """y = f(x W₁ + b₁) W₂ + b₂ at every position by itself.

    Args:
        features: Those of y.
        hidden: Those in between; 4 · features unless given.
        activation: f; `gelu` unless given.
        dropout: The share of y that training sets to 0.
        use_bias: Whether there are b₁ and b₂.

    Raises:
        ValueError: ``features`` or ``hidden`` is not positive, ``dropout`` is not in [0, 1).
    """
    require_positive_integer("feed_forward", "features", features)
    if hidden is not None:
        require_positive_integer("feed_forward", "hidden", hidden)
    layers = (
        dense(hidden or 4 * features, use_bias=use_bias, weight_init="glorot"),
        gelu() if activation is None else activation,
        dense(features, use_bias=use_bias, weight_init="glorot"),
    )
    return serial(*layers, *_noise("feed_forward", dropout))._replace(name="feed_forward")


def transformer_block(
    features: int,
    heads: int,
    *,
    hidden: int | None = None,
    memory: bool = False,
    mask: bool = False,
    norm_first: bool = True,
    norm: str = "layer_norm",
    activation: Layer | None = None,
    dropout: float = 0.0,
    causal: bool = False,
    rotary: bool = False,
    groups: int | None = None,
    block: int | None = None,
) -> Layer:
    """Self-attention, attention to a memory if there is one, and a feed-forward network.

    Each f of the three stands in a residual connection with a normalisation: x + f(norm(x)), or
    norm(x + f(x)) where the norm comes last (Vaswani et al., 2017; Xiong et al., 2020).

    x and y are [batch, time, features]; or tuples (x[, memory][, mask]), of which the members
    behind x pass through, so that blocks can follow each other and `repeat` can stack them. The
    mask, lengths or booleans as for `attention`, belongs to the memory where there is one: what a
    decoder's own positions see is up to ``causal``.

    Args:
        features: Those of x and y.
        heads: See `attention`.
        hidden: See `feed_forward`.
        memory: Whether x has a memory behind it.
        mask: Whether x has a mask at its end.
        norm_first: Which of the two forms it is.
        norm: The normalisation, "layer_norm" or "rms_norm".
        activation: See `feed_forward`.
        dropout: The share of the results of every f, before they are added, and of the attention
            weights, that training sets to 0.
        causal: For the self-attention; see `attention`.
        rotary: For the self-attention; see `attention`.
        groups: See `attention`.
        block: See `attention`.

    Raises:
        ValueError: ``features`` is not positive, ``norm`` is unknown; for other reasons see the
            layers named.
    """
    require_positive_integer("transformer_block", "features", features)
    for name, value in (("memory", memory), ("mask", mask), ("norm_first", norm_first)):
        require_boolean("transformer_block", name, value)
    if norm not in _NORMS:
        raise ValueError(f"transformer_block: {unknown_name('norm', norm, _NORMS)}")
    members = 1 + memory + mask
    make_norm = _NORMS[norm]

    def residual(layer: Layer, *beside: int) -> Layer:
        """``layer`` is given x, and the members of the tuple whose indices stand in ``beside``."""
        layers = (layer, *_noise("transformer_block", dropout))
        if not beside:
            whole = skip(make_norm(), *layers) if norm_first else serial(skip(*layers), make_norm())
            return on(0, whole) if members > 1 else whole
        given = (select(0, *beside), *((on(0, make_norm()),) if norm_first else ()))
        total = serial(fork(select(0), serial(*given, *layers)), add())
        total = total if norm_first else serial(total, make_norm())
        return fork(total, *(select(index) for index in range(1, members)))

    attend = partial(attention, heads, groups=groups, block=block, dropout=dropout)
    own_mask = (1,) if mask and not memory else ()
    return serial(
        residual(attend(causal=causal, rotary=rotary), *own_mask),
        *([residual(attend(), *range(1, members))] if memory else []),
        residual(feed_forward(features, hidden, activation=activation)),
    )._replace(name="transformer_block")


def _noise(where: str, rate: float) -> tuple[Layer, ...]:
    require_number(where, "dropout", rate, minimum=0, maximum=1, open_maximum=True)
    return (dropout_layer(rate),) if rate else ()
