"""The ``state_dict`` of a PyTorch model of the same architecture as a network, in and out.

PyTorch has weights as [out, in, *kernel] and images as [batch, channels, *size]; here they are
[*kernel, in, out] and [batch, *size, channels]. Of one module:

dense, conv        weight with its axes in another order; conv_transpose likewise
norms              weight is scale, bias is offset, running_mean and running_var are the state
rnn, lstm          weight_ih and weight_hh transposed, gates in the same order; the bias is the sum
                   of PyTorch's two, of which the second is 0 on the way back
gru                likewise, but with both biases: the reset gate acts behind the second
attention          the rows of in_proj_weight are those of query, key and value
"""

import functools
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from jaxnn.core.contract import Layer
from jaxnn.core.networks import below
from jaxnn.core.validation import brief
from jaxnn.interop.weights.forms import (
    Arrays,
    Form,
    NoForm,
    flattened_otherwise,
    moved,
    reordered,
)
from jaxnn.interop.weights.layouts import CUT, FIRST, LAST, MIXED, SPATIAL, Given, layouts_of
from jaxnn.interop.weights.matching import Module, renamed, said_of
from jaxnn.interop.weights.moving import Known, Library, Source, read_weights, write_weights
from jaxnn.interop.weights.places import Place, Trees
from jaxnn.layers.activations import prelu
from jaxnn.layers.attention import attention
from jaxnn.layers.bilinear import bilinear
from jaxnn.layers.convolution import conv_relu_max_pool, conv_transpose
from jaxnn.layers.convolution.base import Convolution
from jaxnn.layers.dense import dense
from jaxnn.layers.embedding import embedding, embedding_bag
from jaxnn.layers.normalization import batch_norm, group_norm, instance_norm, layer_norm, rms_norm
from jaxnn.layers.positions import positional_embedding
from jaxnn.layers.recurrent import gru, lstm, rnn
from jaxnn.layers.reparametrization import spectral_norm, weight_norm
from jaxnn.losses.projection import projection

COUNTER = "num_batches_tracked"
"""Of batch norm, which changes no prediction: read over, and 0 on the way out."""
_OF_TIME = re.compile(r"(?:(.*)\.)?((?:weight|bias)_[ih][hr])_(l\d+(?:_reverse)?)")
_TIME = re.compile(r"(?:(.*)\.)?(l\d+(?:_reverse)?)")
_PARAMETRIZED = re.compile(r"(?:(.*)\.)?(parametrizations\..+)")
_AFFINE = ("weight", "bias")
_PACKED = ("in_proj_weight", "in_proj_bias", "q_proj_weight")


def from_state_dict(
    network: Layer,
    x: Any,
    state_dict: Mapping[str, Any],
    *,
    names: Mapping[str, str] | None = None,
    channels_first: bool | None = None,
) -> tuple[Any, Any]:
    """(params, state) of a network, from the weights of a PyTorch model of the same architecture.

    The modules of the model are matched with the layers in order, by kind and shape. A file has its
    arrays sorted by name, which says nothing of the order of modules: there, those of one kind and
    shape are matched by the numbers in their names, and refused where names differ in more than
    numbers; ``names`` says which is which.

    Behind a `flatten` of images the parameters are put into the order that features have here.
    Options that are no weights (``eps``, ``momentum``, padding) are the network's own.

    Args:
        network: Any network of layers that PyTorch has.
        x: Its input, arrays or `jax.ShapeDtypeStruct`.
        state_dict: Name to NumPy array or PyTorch tensor: ``model.state_dict()``, or what
            `read_safetensors` returns. Files of pickle are not read: they can run code.
        names: Path of a layer, or of a network inside, to the prefix of its module: {"head.1":
            "classifier", "body": "layers"}. What is below the two is matched by itself. Paths are
            those of `jaxnn.walk`; copies of a `repeat` have numbers. Of ``nn.LSTM`` and its like
            the prefix of a layer is "rnn.l0", "rnn.l0_reverse". Of an `attention` the paths
            "….query", "….key", "….value" and "….output" can have modules of their own, each
            ``nn.Linear``.
        channels_first: Whether PyTorch flattens arrays with their channels first where that cannot
            be known: inputs of three axes, and what a layer took otherwise than the one before it.
            Of images it is taken for granted. False: its features are flattened in the order that
            they have here, and none are moved, of images neither.

    Raises:
        TypeError: An entry is no array.
        ValueError: Modules and layers do not match, by number, kind, shape or dtype, a layer has no
            counterpart, or an order cannot be known: all of it is listed, and nothing is made.
    """
    where = "from_state_dict"
    arrays = _arrays(where, state_dict)
    library = _library(network, x, channels_first)
    return read_weights(where, network, x, _source(arrays), library, names)


def to_state_dict(
    network: Layer,
    x: Any,
    params: Any,
    state: Any,
    *,
    names: Mapping[str, str] | None = None,
    channels_first: bool | None = None,
) -> dict[str, np.ndarray]:
    """The weights of a network as the ``state_dict`` of a PyTorch model of the same architecture.

    The inverse of `from_state_dict`, whose arguments it has. The prefix of a module is the path of
    the layer, which in a `serial` is that in ``nn.Sequential``, unless ``names`` gives another one
    for it, or for the beginning of its path.
    ``{n: torch.from_numpy(a) for n, a in state_dict.items()}`` is what a model loads; save it by
    `save_safetensors`.

    Raises:
        ValueError: params or state are not those of the network, a layer has no counterpart, or two
            arrays would have one name.
    """
    where = "to_state_dict"
    library = _library(network, x, channels_first)
    written = write_weights(where, network, x, (params, state), library, names)
    state_dict = {}
    for place, arrays in written:
        key = said_of(place.name, names or {})
        prefix = place.name if key is None else renamed(place.name, key, (names or {})[key])
        if "running_mean" in arrays:
            arrays = arrays | {COUNTER: np.zeros((), np.int64)}
        for local, array in arrays.items():
            name = _joined(prefix, local)
            if name in state_dict:
                raise ValueError(f"{where}: expected different names, got two {brief(name)}")
            state_dict[name] = np.array(array)  # a copy, that PyTorch may write to
    return state_dict


def _library(network: Layer, x: Any, channels_first: bool | None) -> Library:
    def known_in(trees: Trees) -> Callable[[Place], Known]:
        if channels_first is False:
            return lambda place: Known(_forms(place.layer, place.arrays))
        given = layouts_of(network, trees.shapes, x, channels_first=channels_first is True)

        def known_of(place: Place) -> Known:
            forms = _forms(place.layer, place.arrays)
            here = given.get(place.path, Given(MIXED, ()))
            return Known([_in_order(form, place, here) for form in forms])

        return known_of

    return known_in


def _forms(layer: Layer, own: Mapping[str, Any]) -> Sequence[Form]:
    match layer:
        case Convolution() | conv_relu_max_pool():
            rank = len(own["weight"].shape)
            axes = (rank - 1, rank - 2, *range(rank - 2))
            return (moved(weight=("weight", axes), bias="bias"),)
        case dense() | projection():
            return (moved(weight=("weight", (1, 0)), bias="bias"),)
        case bilinear():
            return (moved(weight=("weight", (2, 0, 1)), bias="bias"),)
        case embedding() | embedding_bag() | positional_embedding():
            return (moved(weight="weight"),)
        case batch_norm() | group_norm() | instance_norm() | layer_norm() | rms_norm():
            statistics = {"mean": "running_mean", "variance": "running_var"}
            return (moved(scale="weight", offset="bias", **statistics),)
        case prelu():
            return (moved(scale="weight"),)
        case rnn() | lstm() | gru():
            return _recurrent(layer.cell.recurrent_bias), _WITHOUT_BIAS
        case attention():
            return _attention(own)
        case weight_norm():
            return _weight_norm(layer, own)
        case spectral_norm(layer=Convolution() | dense()) if not isinstance(
            layer.layer, conv_transpose
        ):
            return (_spectral_norm(layer, own),)
    raise NoForm("PyTorch has no such layer")


def _recurrent(two_biases: bool) -> Form:
    def write(own: Arrays) -> Arrays:
        bias = own["input.bias"]
        second = own["recurrent.bias"] if two_biases else jnp.zeros_like(bias)
        return _WITHOUT_BIAS.write(own) | {"bias_ih": bias, "bias_hh": second}

    def read(theirs: Arrays) -> Arrays:
        first, second = theirs["bias_ih"], theirs["bias_hh"]
        biases = {"input.bias": first, "recurrent.bias": second}
        biases = biases if two_biases else {"input.bias": first + second}
        return _WITHOUT_BIAS.read(theirs) | biases

    return Form(write, read)


def _write_without_bias(own: Arrays) -> Arrays:
    return {"weight_ih": own["input.weight"].T, "weight_hh": own["recurrent.weight"].T}


def _read_without_bias(theirs: Arrays) -> Arrays:
    first, second = theirs["weight_ih"], theirs["weight_hh"]
    zeros = np.zeros(len(first), first.dtype)
    biases = {"input.bias": zeros, "recurrent.bias": zeros}
    return {"input.weight": first.T, "recurrent.weight": second.T} | biases


_WITHOUT_BIAS = Form(_write_without_bias, _read_without_bias)
"""Of ``bias=False``, where the layer's are 0."""


def _attention(own: Mapping[str, Any]) -> Sequence[Form]:
    if "relative.weight" in own:
        raise NoForm("nn.MultiheadAttention has no relative positions")
    parts = ("query", "key", "value")
    cuts = np.cumsum([own[f"{part}.weight"].shape[1] for part in parts])[:-1]

    def write(own: Arrays, *, packed: bool) -> Arrays:
        weights = [own[f"{part}.weight"].T for part in parts]
        if packed:
            theirs = {"in_proj_weight": jnp.concatenate(weights)}
        else:
            theirs = {f"{p[0]}_proj_weight": w for p, w in zip(parts, weights, strict=True)}
        if "query.bias" in own:
            theirs["in_proj_bias"] = jnp.concatenate([own[f"{part}.bias"] for part in parts])
        output = {n: own[f"output.{n}"].T for n in _AFFINE if f"output.{n}" in own}
        return theirs | {f"out_proj.{n}": a for n, a in output.items()}

    def read(theirs: Arrays) -> Arrays:
        if "in_proj_weight" in theirs:
            weights = jnp.split(theirs["in_proj_weight"], cuts)
        else:
            weights = [theirs[f"{part[0]}_proj_weight"] for part in parts]
        own = {f"{part}.weight": w.T for part, w in zip(parts, weights, strict=True)}
        if "in_proj_bias" in theirs:
            biases = jnp.split(theirs["in_proj_bias"], cuts)
            own |= {f"{part}.bias": b for part, b in zip(parts, biases, strict=True)}
        output = {n: theirs[f"out_proj.{n}"].T for n in _AFFINE if f"out_proj.{n}" in theirs}
        return own | {f"output.{n}": a for n, a in output.items()}

    one_input = len({own[f"{part}.weight"].shape[0] for part in parts}) == 1
    return (Form(functools.partial(write, packed=one_input), read),)


def _weight_norm(layer: weight_norm, own: Mapping[str, Any]) -> Sequence[Form]:
    """g has the axes of the weight there, all but one of size 1, and is moved as the weight is."""
    (inner,) = _forms(layer.layer, own)
    shape = [1] * len(own["weight"].shape)
    shape[layer.axis] = -1

    def form(length: str, direction: str) -> Form:
        def write(own: Arrays) -> Arrays:
            rest = {n: a for n, a in own.items() if n != "scale"}
            theirs = inner.write(rest)
            scale = inner.write({"weight": own["scale"].reshape(shape)})["weight"]
            return {length: scale, direction: theirs.pop("weight")} | theirs

        def read(theirs: Arrays) -> Arrays:
            rest = {n: a for n, a in theirs.items() if n not in (length, direction)}
            scale = inner.read({"weight": theirs[length]})["weight"].reshape(-1)
            return inner.read(rest | {"weight": theirs[direction]}) | {"scale": scale}

        return Form(write, read)

    start = "parametrizations.weight.original"
    return form(f"{start}0", f"{start}1"), form("weight_g", "weight_v")


def _spectral_norm(layer: spectral_norm, own: Mapping[str, Any]) -> Form:
    """The vectors are those of the weight as a matrix, whose rows are in another order there."""
    (inner,) = _forms(layer.layer, own)
    shape = (*own["weight"].shape[:-1], 1)
    names = [f"parametrizations.weight.{name}" for name in ("original", "0._u", "0._v")]
    direction, right, left = names

    def write(own: Arrays) -> Arrays:
        rest = {n: a for n, a in own.items() if not n.startswith("own.")}
        theirs = inner.write(rest)
        rows = inner.write({"weight": own["own.left"].reshape(shape)})["weight"].reshape(-1)
        return {direction: theirs.pop("weight"), right: own["own.right"], left: rows} | theirs

    def read(theirs: Arrays) -> Arrays:
        rest = {n: a for n, a in theirs.items() if n not in names}
        turned = inner.write({"weight": np.empty(shape, np.bool_)})["weight"].shape
        rows = inner.read({"weight": theirs[left].reshape(turned)})["weight"].reshape(-1)
        vectors = {"own.left": rows, "own.right": theirs[right]}
        return inner.read(rest | {"weight": theirs[direction]}) | vectors

    return Form(write, read)


def _in_order(form: Form, place: Place, given: Given) -> Form:
    """The form with parameters in the order that features have in PyTorch."""
    layer, own, layout = place.layer, place.arrays, given.layout
    if isinstance(layer, prelu) and own["scale"].shape == (1,):
        return form
    if any(a.ndim > 1 for a in own.values()) and isinstance(layer, layer_norm | rms_norm):
        return _over_axes(form, layer, own, given)
    if isinstance(layer, embedding | embedding_bag):
        return form  # of ids
    if layout == MIXED or (layout == CUT and isinstance(layer, SPATIAL)):
        raise NoForm(f"the order of its features in PyTorch cannot be known{_WAY_OUT}")
    if layout.kind != "flat":
        return form
    match layer:
        case dense() | projection():
            names = ("weight",)
        case weight_norm(layer=dense()) | spectral_norm(layer=dense()):
            names = ("weight", "own.left")
        case batch_norm() | layer_norm() | rms_norm() | prelu():
            names = tuple(own)
        case _:
            raise NoForm(f"its features were flattened, in another order in PyTorch{_WAY_OUT}")
    return form.after(*flattened_otherwise(layout.sizes, names))


_WAY_OUT = (
    ": channels_first=True says that it has channels first there, channels_first=False that the "
    "order is the same"
)


def _over_axes(form: Form, layer: Any, own: Mapping[str, Any], given: Given) -> Form:
    """Of a normalisation over several axes: the channels, if they are one, come first there."""
    x = jax.ShapeDtypeStruct(given.shape, jnp.float32)
    with_channels = len(given.shape) - 1 in layer.own_axes(x)
    if given.layout == LAST or not with_channels:
        return form
    if given.layout != FIRST:
        raise NoForm(f"the order of its axes in PyTorch cannot be known{_WAY_OUT}")
    first = functools.partial(jnp.moveaxis, source=-1, destination=0)
    back = functools.partial(jnp.moveaxis, source=0, destination=-1)
    return form.after(*reordered(tuple(own), first, back))


def _source(arrays: dict[str, np.ndarray]) -> Source:
    split = {name: _split(name) for name in arrays}
    packed = {prefix for prefix, local in split.values() if local in _PACKED}
    for name, (prefix, local) in split.items():
        outer, _, last = prefix.rpartition(".")
        if last == "out_proj" and outer in packed:
            split[name] = outer, f"out_proj.{local}"
    groups: dict[str, dict[str, np.ndarray]] = {}
    for name, (prefix, local) in split.items():
        groups.setdefault(prefix, {})[local] = arrays[name]
    full = {below(*split[name]): array for name, array in arrays.items()}

    def take(prefix: str) -> Module | None:
        start = f"{prefix}." if prefix else ""
        under = {n.removeprefix(start): a for n, a in full.items() if n.startswith(start)}
        if under and all(name.startswith("l0.") for name in under):
            under = {name.removeprefix("l0."): a for name, a in under.items()}
        return _module(prefix, under) if under else None

    modules = [_module(prefix, group) for prefix, group in groups.items()]
    by_dtype: dict[Any, list[str]] = {}
    for name, array in arrays.items():
        by_dtype.setdefault(array.dtype, []).append(name)
    in_order = any(sorted(names) != names for names in by_dtype.values())
    return Source(modules, take, in_order)


def _module(prefix: str, arrays: dict[str, np.ndarray]) -> Module:
    time = _TIME.fullmatch(prefix)
    direction = time and (".1" if time[2].endswith("_reverse") else ".0")
    return Module(prefix, arrays, prefix.removesuffix("_reverse") + (direction or ""))


def _split(name: str) -> tuple[str, str]:
    """Prefix and name of an array of a module."""
    if of_time := _OF_TIME.fullmatch(name):
        return below(of_time[1] or "", of_time[3]), of_time[2]
    if parametrized := _PARAMETRIZED.fullmatch(name):
        return parametrized[1] or "", parametrized[2]
    prefix, _, local = name.rpartition(".")
    return prefix, local


def _joined(prefix: str, local: str) -> str:
    """The inverse of `_split`; layers that go through time are nn.LSTM and its like."""
    if re.fullmatch("(weight|bias)_[ih]h", local):
        time = _TIME.fullmatch(prefix)
        return below(time[1] or "", f"{local}_{time[2]}") if time else below(prefix, f"{local}_l0")
    return below(prefix, local)


def _arrays(where: str, state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"{where}: expected state_dict to be a dict of arrays by name, got "
            f"{brief(state_dict)}; read_safetensors makes one of a .safetensors file"
        )
    arrays = {name: _array(where, name, value) for name, value in state_dict.items()}
    return {n: a for n, a in arrays.items() if n.rpartition(".")[2] != COUNTER}


def _array(where: str, name: Any, value: Any) -> np.ndarray:
    """An array of NumPy, without a copy; PyTorch is not needed for that."""
    if isinstance(name, str) and isinstance(value, np.ndarray | jax.Array):
        return np.asarray(value)
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(name, str) or not isinstance(value, torch.Tensor):
        raise TypeError(
            f"{where}: expected names and arrays of NumPy or PyTorch, got {brief(name)}: "
            f"{brief(value)}"
        )
    value = value.detach().cpu().contiguous()
    if value.dtype == torch.bfloat16:
        return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return value.numpy()
