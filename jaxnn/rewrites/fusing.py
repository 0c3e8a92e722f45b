"""Networks rewritten so that neighbouring layers are computed in one pass over the data."""

from jaxnn.core.combinators import identity
from jaxnn.core.layer import Layer, with_parts
from jaxnn.layers.convolution.pooled import conv_relu_max_pool


def fuse(network: Layer) -> Layer:
    """The same network, computed faster: its params, state and captures keep their form.

    In every `serial`, a `conv`, `relu` and `max_pool` with windows of 2×2 side by side become one
    layer with the parameters of the convolution, followed by two that do nothing. ``predict`` stays
    the textbook definition. Where a near-tie decides which element of a window is the maximum,
    rounding may decide for another than it does in the network itself.
    """
    if not network.parts:
        return network
    parts = [fuse(part) for part in network.parts]
    if network.name == "serial":
        for index in range(len(parts) - 2):
            if _can_be_joined(*parts[index : index + 3]):
                fused = conv_relu_max_pool(parts[index])
                parts[index : index + 3] = [fused, identity(), identity()]
    return with_parts(network, parts)


def _can_be_joined(first: Layer, second: Layer, third: Layer) -> bool:
    if (first.name, second.name, third.name) != ("conv", "relu", "max_pool"):
        return False
    conv, pool = first.arguments.values, third.arguments.values
    return (
        conv["algorithm"] is None
        and pool["window"] in (2, (2, 2))
        and pool["strides"] in (None, 2, (2, 2))
        and pool["padding"] == "VALID"
        and pool["dilation"] in (1, (1, 1))
    )
