"""Transformer blocks, put together with the combinators."""

import functools
from dataclasses import KW_ONLY, replace
from typing import Annotated, Literal

from jaxnn.core.combinators import Compound, add, fork, on, select, serial, skip
from jaxnn.core.contract import Layer
from jaxnn.core.validation import require_positive_integer, require_rate
from jaxnn.layers.activations import gelu
from jaxnn.layers.attention import attention as attention_layer
from jaxnn.layers.attention.rotary import BASE
from jaxnn.layers.dense import dense
from jaxnn.layers.dropout import dropout as dropout_layer
from jaxnn.layers.normalization import layer_norm, rms_norm


class feed_forward(Compound):
    """y = f(x W₁ + b₁) W₂ + b₂ at every position by itself.

    Args:
        features: Those of y.
        hidden: Those that f is given; 4 · features unless given.
        activation: f; `gelu` unless given. A gated one, such as `swiglu`, leaves half of them.
        dropout: The share of y that training sets to 0.
        use_bias: Whether there are b₁ and b₂.

    Raises:
        ValueError: ``features`` or ``hidden`` is not positive, ``dropout`` is not in [0, 1).
    """

    features: Annotated[int, require_positive_integer]
    hidden: Annotated[int, require_positive_integer] | None = None
    _: KW_ONLY
    activation: Layer | None = None
    dropout: Annotated[float, require_rate] = 0.0
    use_bias: bool = True

    @functools.cached_property
    def made(self) -> Layer:
        make = functools.partial(dense, use_bias=self.use_bias, weight_init="glorot")
        return serial(
            make(self.hidden or 4 * self.features),
            gelu() if self.activation is None else self.activation,
            make(self.features),
            *_noise(self.dropout),
        )


class transformer_block(Compound):
    """Self-attention, attention to a memory if there is one, and a feed-forward network.

    Each f of the three stands in a residual connection with a normalisation: x + f(norm(x)), or
    norm(x + f(x)) where the norm comes last (Vaswani et al., 2017; Xiong et al., 2020).

    x and y are [batch, time, features]; or tuples (x[, memory][, mask]), of which the members
    behind x pass through, so that blocks can follow each other and `repeat` can stack them. The
    mask, lengths or booleans as for `attention`, belongs to the memory where there is one: what a
    decoder's own positions see is up to ``causal``.

    Args:
        features: Those of x and y.
        heads: Those of `attention`, as are groups and block; unless ``attention`` is given.
        attention: The self-attention with all its options, such as ``attention(8, causal=True,
            alibi=True, softcap=30.0)``, in place of one with heads, groups, block, causal, rotary,
            and of the dropout of its weights and its biases. The attention to a memory has the same
            options but for those that are about positions: causal, rotary, alibi and relative.
        hidden: That of `feed_forward`, as is activation.
        memory: Whether x has a memory behind it.
        mask: Whether x has a mask at its end.
        norm_first: Which of the two forms it is.
        norm: The normalisation: "layer_norm", "rms_norm", or a layer that keeps the shape of x.
        dropout: The share of the results of every f, before they are added, and of the attention
            weights, that training sets to 0.
        causal: That of the self-attention.
        rotary: That of the self-attention.
        use_bias: Whether attention and feed-forward network have biases, and a norm given by its
            name, where it is "layer_norm", an offset.

    Raises:
        ValueError: ``features`` is not positive, ``norm`` is unknown, ``attention`` is given beside
            what it is in place of, or nothing is; or one of the layers named refuses its arguments.
    """

    features: Annotated[int, require_positive_integer]
    heads: Annotated[int, require_positive_integer] | None = None
    _: KW_ONLY
    attention: attention_layer | None = None
    hidden: Annotated[int, require_positive_integer] | None = None
    memory: bool = False
    mask: bool = False
    norm_first: bool = True
    norm: Layer | Literal["layer_norm", "rms_norm"] = "layer_norm"
    activation: Layer | None = None
    dropout: Annotated[float, require_rate] = 0.0
    causal: bool = False
    rotary: bool = False
    groups: int | None = None
    block: int | None = None
    use_bias: bool = True

    def validate(self) -> None:
        _ = self.made  # the layers check what concerns them

    @functools.cached_property
    def made(self) -> Layer:
        attend = self._self_attention()
        elsewhere = replace(
            attend,
            causal=False,
            alibi=False,
            relative=None,
            rotary=False,
            rotary_features=None,
            interleaved=False,
            rotary_base=BASE,
        )
        network = feed_forward(
            self.features, self.hidden, activation=self.activation, use_bias=self.use_bias
        )
        own_mask = (1,) if self.mask and not self.memory else ()
        return serial(
            self._residual(attend, *own_mask),
            *([self._residual(elsewhere, *range(1, self._members))] if self.memory else []),
            self._residual(network),
        )

    def _self_attention(self) -> attention_layer:
        options = {
            "groups": self.groups,
            "block": self.block,
            "causal": self.causal,
            "rotary": self.rotary,
        }
        given = [name for name, value in ({"heads": self.heads} | options).items() if value]
        if self.attention is None:
            if self.heads is None:
                raise ValueError("transformer_block: expected heads or attention, got neither")
            own = {"dropout": self.dropout, "use_bias": self.use_bias}
            return attention_layer(self.heads, **options, **own)
        if given:
            raise ValueError(
                f"transformer_block: expected attention in place of {', '.join(given)}, got both: "
                "say it in attention"
            )
        return self.attention

    @property
    def _members(self) -> int:
        return 1 + self.memory + self.mask

    def _residual(self, layer: Layer, *beside: int) -> Layer:
        """``layer`` is given x, and the members of the tuple whose indices stand in ``beside``."""
        norm = self.norm
        if not isinstance(norm, Layer):
            norm = rms_norm() if norm == "rms_norm" else layer_norm(use_offset=self.use_bias)
        layers = (layer, *_noise(self.dropout))
        if not beside:
            whole = skip(norm, *layers) if self.norm_first else serial(skip(*layers), norm)
            return on(0, whole) if self._members > 1 else whole
        given = (select(0, *beside), *((on(0, norm),) if self.norm_first else ()))
        total = serial(fork(select(0), serial(*given, *layers)), add())
        total = total if self.norm_first else serial(total, norm)
        return fork(total, *(select(index) for index in range(1, self._members)))


def _noise(rate: float) -> tuple[Layer, ...]:
    return (dropout_layer(rate),) if rate else ()
