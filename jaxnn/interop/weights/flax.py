"""The variables of a Flax model (linen) of the same architecture as a network, in and out.

Flax has its features last and its kernels as [*kernel, in, out], as here. What differs is names and
how parameters of gates and heads are cut:

dense, conv        kernel is weight; that of ConvTranspose is mirrored, and in and out are exchanged
norms              scale, bias is offset; mean and var of batch_stats are the state
LSTMCell           eight kernels, ii, if, ig, io and hi, hf, hg, ho, are the blocks of two weights
GRUCell            likewise ir, iz, in and hr, hz, hn, where hn alone has a bias
attention          query, key and value are [in, heads, depth], out is [heads, depth, features]
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.core.contract import Layer
from jaxnn.core.validation import brief
from jaxnn.interop.weights.forms import Arrays, Form, NoForm, moved
from jaxnn.interop.weights.matching import Module, said_of
from jaxnn.interop.weights.moving import Known, Source, read_weights, write_weights
from jaxnn.interop.weights.places import Place, Trees
from jaxnn.layers.activations import prelu
from jaxnn.layers.attention import attention
from jaxnn.layers.convolution import conv, conv_relu_max_pool, conv_transpose
from jaxnn.layers.dense import dense
from jaxnn.layers.embedding import embedding
from jaxnn.layers.normalization import batch_norm, group_norm, instance_norm, layer_norm, rms_norm
from jaxnn.layers.recurrent import gru, lstm, rnn
from jaxnn.losses.projection import projection

Path = tuple[str, ...]
COLLECTIONS = ("params", "batch_stats")
STATISTICS = ("mean", "var")
"""What stands in batch_stats."""
_LSTM, _GRU, _RNN = ("i", "f", "g", "o"), ("r", "z", "n"), ("",)
_HEADS = ("query", "key", "value")
_KINDS = (
    *("ConvTranspose", "Conv", "Dense", "Embed", "BatchNorm", "GroupNorm", "InstanceNorm"),
    *("LayerNorm", "RMSNorm", "PReLU", "SimpleCell", "LSTMCell", "GRUCell"),
    "MultiHeadDotProductAttention",
)
_WAY_OUT = "init=model.init or names={path of a layer: scope} says"
_BY_FLAX = re.compile(r"[A-Z].*_[0-9]+").fullmatch
"""Names that Flax gives to modules."""
_TOGETHER = [
    {f"{side}{gate}" for side in "ih" for gate in gates} for gates in (_LSTM, _GRU, _RNN)
] + [{*_HEADS, "out"}]
"""Names of modules that are parts of one."""


def from_flax_params(
    network: Layer,
    x: Any,
    variables: Mapping[str, Any],
    *,
    init: Callable[[Any, Any], Mapping[str, Any]] | None = None,
    names: Mapping[str, str] | None = None,
) -> tuple[Any, Any]:
    """(params, state) of a network, from the variables of a Flax model of the same architecture.

    The modules of the model are matched with the layers in order, by kind and shape. Variables that
    have been through a transformation of JAX are sorted by name, and Flax gives numbers in the
    order in which modules are constructed, which for ``Dense(2)(Dense(3)(x))`` is not that in which
    they are used: there, modules of one kind and shape are refused unless ``init`` or ``names``
    says which is which.

    Options that are no parameters are the network's own: Flax's norms have ``epsilon`` 1e-6, its
    batch norm 1e-5, and its momentum is 0.99. A ConvTranspose is taken to have the option
    ``transpose_kernel=False``, which is its default.

    Args:
        network: Any network of layers that Flax has.
        x: Its input, arrays or `jax.ShapeDtypeStruct`.
        variables: {"params": …}, and {"batch_stats": …} where there is batch norm, as ``init`` of a
            linen module returns them.
        init: ``model.init``, or (key, x) -> variables by which it is called: it is traced to find
            the order of the modules.
        names: Path of a layer, or of a network inside, to the scope of its module: {"head.1":
            "Block_0/Dense_1"}. What is below the two is matched by itself. Paths are those of
            `jaxnn.walk`; copies of a `repeat` have numbers.

    Raises:
        TypeError: An entry is no array.
        ValueError: Modules and layers do not match, by number, kind, shape or dtype, or a layer has
            no counterpart: all of it is listed, and nothing is made.
    """
    where = "from_flax_params"
    _require_variables(where, variables)
    order = None if init is None else _order(where, init, x)
    source = _source(where, variables, order)
    return read_weights(where, network, x, source, _library, names, _WAY_OUT)


def to_flax_params(
    network: Layer, x: Any, params: Any, state: Any, *, names: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The weights of a network as variables of a Flax model (linen) of the same architecture.

    The inverse of `from_flax_params`, whose arguments it has. Scopes are those that Flax gives to
    modules in one ``compact`` method, Dense_0, Conv_0, Dense_1, unless ``names`` has others: one
    for a network inside is that of such a method.

    Raises:
        ValueError: params or state are not those of the network, a layer has no counterpart, or two
            arrays would have one name.
    """
    where, names = "to_flax_params", names or {}
    variables: dict[str, Any] = {"params": {}}
    counts: Counter[tuple[str, str]] = Counter()
    for place, arrays in write_weights(where, network, x, (params, state), _library, names):
        key, kind = said_of(place.name, names), _known(place).kind
        scope = "" if key is None else names[key]
        if key != place.name:
            number = counts[scope, kind]
            counts[scope, kind] += 1
            scope = f"{scope}/{kind}_{number}".lstrip("/")
        for local, array in arrays.items():
            collection = "batch_stats" if local in STATISTICS else "params"
            path = [*scope.split("/"), *local.split("/")]
            inside = variables.setdefault(collection, {})
            for part in path[:-1]:
                inside = inside.setdefault(part, {})
            if path[-1] in inside:
                name = brief("/".join(path))
                raise ValueError(f"{where}: expected different names, got two {name}")
            inside[path[-1]] = jnp.asarray(array)
    return variables


def _library(trees: Trees) -> Callable[[Place], Known]:
    return _known


def _known(place: Place) -> Known:
    own, layer = place.arrays, place.layer
    affine = moved(weight="kernel", bias="bias")
    norm = moved(scale="scale", offset="bias", mean="mean", variance="var")
    match layer:
        case conv_transpose(groups=1):
            return Known([affine.after(_mirrored, _mirrored)], "ConvTranspose")
        case conv() | conv_relu_max_pool():
            return Known([affine], "Conv")
        case dense() | projection():
            return Known([affine], "Dense")
        case embedding():
            return Known([moved(weight="embedding")], "Embed")
        case batch_norm():
            return Known([norm], "BatchNorm")
        case group_norm():
            return Known([norm], "GroupNorm")
        case instance_norm():
            return Known([norm], "InstanceNorm")
        case layer_norm():
            return Known([norm], "LayerNorm")
        case rms_norm():
            return Known([norm], "RMSNorm")
        case prelu(per_channel=False):
            return Known([_PRELU], "PReLU")
        case rnn():
            return Known([_recurrent(_RNN)], "SimpleCell")
        case lstm():
            return Known([_recurrent(_LSTM)], "LSTMCell")
        case gru():
            return Known([_recurrent(_GRU)], "GRUCell")
        case attention() if "relative.weight" not in own:
            heads = layer.heads
            return Known([_attention(heads, layer.groups or heads)], "MultiHeadDotProductAttention")
    raise NoForm("Flax has no such layer")


def _kind(scope: Path) -> str:
    """What a module is, by the name that Flax gave it."""
    name = re.fullmatch(r"(?:Optimized)?([A-Za-z]+)_[0-9]+", scope[-1]) if scope else None
    return name[1] if name and name[1] in _KINDS else ""


def _mirrored(own: Arrays) -> Arrays:
    """[*kernel, a, b] as [*kernel, b, a] with the kernel from its end; its own inverse."""
    weight = own["weight"]
    kernel = tuple(range(weight.ndim - 2))
    return own | {"weight": jnp.flip(weight, kernel).swapaxes(-1, -2)}


_PRELU = Form(
    lambda own: {"negative_slope": own["scale"].reshape(())},
    lambda theirs: {"scale": theirs["negative_slope"].reshape(1)},
)


def _recurrent(gates: tuple[str, ...]) -> Form:
    """Blocks of columns for the gates. Flax has one bias for the two of a gate, but for n's."""

    def write(own: Arrays) -> Arrays:
        count, theirs = len(gates), {}
        for side, ours in (("i", "input"), ("h", "recurrent")):
            kernels = jnp.split(own[f"{ours}.weight"], count, -1)
            theirs |= {f"{side}{g}/kernel": k for g, k in zip(gates, kernels, strict=True)}
        biases = dict(zip(gates, jnp.split(own["input.bias"], count), strict=True))
        if gates == _GRU:
            second = dict(zip(gates, jnp.split(own["recurrent.bias"], count), strict=True))
            theirs["hn/bias"] = second.pop("n")
            biases |= {gate: biases[gate] + bias for gate, bias in second.items()}
        side = "h" if gates == _LSTM else "i"
        return theirs | {f"{side}{gate}/bias": bias for gate, bias in biases.items()}

    def read(theirs: Arrays) -> Arrays:
        def side(name: str, what: str) -> Any:
            return jnp.concatenate([theirs[f"{name}{gate}/{what}"] for gate in gates], -1)

        own = {"input.weight": side("i", "kernel"), "recurrent.weight": side("h", "kernel")}
        own["input.bias"] = side("h" if gates == _LSTM else "i", "bias")
        if gates == _GRU:
            of_n = theirs["hn/bias"]
            own["recurrent.bias"] = jnp.concatenate([jnp.zeros_like(of_n)] * 2 + [of_n])
        return own

    return Form(write, read)


def _attention(heads: int, groups: int) -> Form:
    """Heads as an axis of their own."""
    counts = {"query": heads, "key": groups, "value": groups}

    def write(own: Arrays) -> Arrays:
        theirs = {}
        for name, array in own.items():
            part, _, what = name.partition(".")
            what = "kernel" if what == "weight" else what
            if part in counts:
                theirs[f"{part}/{what}"] = array.reshape(*array.shape[:-1], counts[part], -1)
            elif what == "kernel":
                theirs["out/kernel"] = array.reshape(heads, -1, array.shape[-1])
            else:
                theirs["out/bias"] = array
        return theirs

    def read(theirs: Arrays) -> Arrays:
        own = {}
        for name, array in theirs.items():
            part, what = name.split("/")
            what = "weight" if what == "kernel" else what
            if part in counts:
                own[f"{part}.{what}"] = array.reshape(*array.shape[:-2], -1)
            elif what == "weight":
                own["output.weight"] = array.reshape(-1, array.shape[-1])
            else:
                own["output.bias"] = array
        return own

    return Form(write, read)


def _require_variables(where: str, variables: Any) -> None:
    is_mapping = isinstance(variables, Mapping)
    if not is_mapping or "params" not in variables or {*variables} - {*COLLECTIONS}:
        raise ValueError(
            f"{where}: expected variables to have params and, it may be, batch_stats, got "
            f"{brief(list(variables) if is_mapping else variables)}"
        )


def _order(where: str, init: Callable, x: Any) -> list[Path]:
    """The paths of arrays in the order of their making."""
    order: list[Path] = []

    def run(key: Any, x: Any):
        variables = init(key, x)
        _require_variables(where, variables)
        order.extend(path for path, _ in _leaves(where, variables["params"], ()))

    jax.eval_shape(run, jax.random.key(0), x)
    return order


def _source(where: str, variables: Mapping[str, Any], order: list[Path] | None) -> Source:
    groups: dict[Path, dict[str, Any]] = {}
    full: dict[str, Any] = {}
    for name in COLLECTIONS:
        scopes = variables.get(name, {})
        leaves = dict(_leaves(where, scopes, ()))
        known = [path for path in order or () if path in leaves]
        for path in dict.fromkeys([*known, *leaves]):
            full["/".join(path)] = leaves[path]
            scope, local = _cut(scopes, path)
            groups.setdefault(scope, {})[local] = leaves[path]

    def take(prefix: str) -> Module | None:
        start = f"{prefix}/" if prefix else ""
        under = {n.removeprefix(start): a for n, a in full.items() if n.startswith(start)}
        return Module(prefix, under, prefix) if under else None

    modules = [
        Module("/".join(scope), group, "/".join(scope), _kind(scope), not any(map(_BY_FLAX, scope)))
        for scope, group in groups.items()
    ]
    in_order = order is not None or not all(map(_is_sorted, variables.values()))
    return Source(modules, take, in_order)


def _cut(scopes: Mapping[str, Any], path: Path) -> tuple[Path, str]:
    """The scope of a module, and the name of an array in it."""
    *outer, local = path
    around = scopes
    for part in outer[:-1]:
        around = around[part]
    if outer and {*around} in _TOGETHER:
        return tuple(outer[:-1]), f"{outer[-1]}/{local}"
    return tuple(outer), local


def _leaves(where: str, scopes: Mapping[str, Any], path: Path) -> Iterator[tuple[Path, Any]]:
    """Arrays with their paths, in the order of the dicts."""
    for name, inner in scopes.items():
        if isinstance(inner, Mapping):
            yield from _leaves(where, inner, (*path, name))
        elif isinstance(inner, np.ndarray | jax.Array):
            yield (*path, name), inner
        else:
            raise TypeError(
                f"{where}: expected {brief('/'.join((*path, name)))} to be an array, got "
                f"{brief(inner)}"
            )


def _is_sorted(scopes: Any) -> bool:
    """Whether every dict has its names sorted, as JAX leaves them."""
    if not isinstance(scopes, Mapping):
        return True
    return sorted(scopes) == list(scopes) and all(map(_is_sorted, scopes.values()))
