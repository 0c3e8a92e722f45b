"""Training of a network in stages: parameters and optimiser state on the device of their stage.

A train state that `place_on_stages` has laid out is trained by `jaxnn.training.train` with a
`jaxnn.sharding.pipelined` gradient: each device takes the optimiser's step for its own stage.
`jaxnn.sharding.unstaged` gives it back as it would be without stages, to save, evaluate and go on
with on any number of them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnn.core.networks import label
from jaxnn.sharding import Staged, pipelined
from jaxnn.sharding.stages import Arrangement, arrange, arranged, on_each_stage, shape_of
from jaxnn.training.leaf_by_leaf import Own, members, name_of, require_leaf_by_leaf
from jaxnn.training.placement import kept_for
from jaxnn.training.steps import TrainState


def place_on_stages(
    train_state: TrainState,
    mesh: Mesh,
    gradient: pipelined,
    optimizer: optax.GradientTransformation,
) -> TrainState:
    """The same train state, laid out over the stages of a mesh.

    Args:
        train_state: From `create_state`, or one saved on any number of devices or stages.
        mesh: From ``jaxnn.sharding.make_mesh(stages=…)``.
        gradient: The gradient that it will be trained with.
        optimizer: The optimiser that the state is of, as without stages.

    Raises:
        ValueError: The optimiser needs the gradient of the whole network, or of all copies of a
            `repeat` on several stages; names the transformation, the layer and the way out.
    """
    gradient.require_axis(mesh)
    require_stage_by_stage(gradient, optimizer, train_state.params)
    params = gradient.laid_out(train_state.params)
    state = _arrange_state(optimizer, train_state.params, params.arrangement)
    placed = train_state._replace(
        params=params,
        optimizer_state=arranged(train_state.optimizer_state, state),
        key=jax.random.key_data(train_state.key),
    )
    specs = jax.tree.map(lambda _: P(), placed)._replace(
        params=placed.params.specs(), optimizer_state=placed.optimizer_state.specs()
    )
    placed = jax.tree.map(lambda a, s: jax.device_put(a, NamedSharding(mesh, s)), placed, specs)
    impl = jax.random.key_impl(train_state.key)
    return placed._replace(key=jax.random.wrap_key_data(placed.key, impl=impl))


def by_stages(
    gradient: pipelined, optimizer: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """The optimiser of `Staged` parameters: of each stage's own, on its device."""

    def init(params: Any) -> Any:
        whole = params.whole()
        return arranged(optimizer.init(whole), _arrange_state(optimizer, whole, params.arrangement))

    def update(updates: Any, state: Any, params: Any = None, *, value: Any = None, **_: Any) -> Any:
        one = optax.with_extra_args_support(optimizer).update
        return on_each_stage(
            lambda stage, *own: one(*own[:3], value=own[3]),
            (params.arrangement, state.arrangement),
            *(updates, state, params, value),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def require_stage_by_stage(gradient: pipelined, optimizer: Any, params: Any) -> None:
    """Raise ValueError unless a stage's update is the same with its gradient alone, and lies in
    rows of the parameters' dtypes."""
    if gradient.order.stages > 1:
        _require_leaf_by_leaf(gradient, optimizer, params)
    update = optax.with_extra_args_support(optimizer).update
    updates = jax.eval_shape(
        lambda p: update(p, optimizer.init(p), p, value=jnp.float32(0))[0], params
    )
    for (path, own), given in zip(
        jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(updates), strict=True
    ):
        if own.dtype != given.dtype:
            raise ValueError(
                "pipelined: expected an optimiser whose updates have the dtype of the parameters, "
                f"but {_names_of(optimizer)} has {given.dtype} for params"
                f"{jax.tree_util.keystr(path)} of {own.dtype}: keep its state in that dtype"
            )


def _require_leaf_by_leaf(gradient: pipelined, optimizer: Any, params: Any) -> None:
    cut = gradient.cut
    on_stages = [piece.layer for pieces in cut.pieces for piece in pieces]
    network = gradient.network
    units = [
        Own(label(name, layer), own, int(on_stages.count(index) > 1))
        for index, (name, layer, own) in enumerate(
            zip(network.part_names, network.layers, params, strict=True)
        )
        if jax.tree.leaves(own)
    ]
    require_leaf_by_leaf("pipelined", optimizer, units, params, _WAY_OUT)


_WAY_OUT = (
    "Stages take their steps by themselves: leave clipping by the global norm out, or train "
    "without stages"
)


def _arrange_state(optimizer: Any, params: Any, of_params: Arrangement) -> Arrangement:
    """Where the optimiser's state lies: what it keeps for a parameter, where that is.

    Of each parameter it keeps the same things in the same order, whether it is given all or a
    stage's own.
    """
    shapes = jax.eval_shape(lambda p: p, params)
    leaves = jax.tree.leaves(shapes)
    whole, tags = kept_for(optimizer, shapes)
    kept: dict[int, list[int]] = {}
    for number, tag in enumerate(tags):
        kept.setdefault(tag, []).append(number)
    own = []
    for treedef, places in zip(of_params.trees, of_params.places, strict=True):
        of_stage = [jax.ShapeDtypeStruct(p.shape, leaves[p.leaf].dtype) for p in places]
        state, own_tags = kept_for(optimizer, treedef.unflatten(of_stage))
        met: dict[int, int] = {}
        refs = []
        for tag in own_tags:
            place = None if tag < 0 else places[tag]
            leaf = kept[tag if place is None else place.leaf][met.get(tag, 0)]
            refs.append((leaf, place and place.copies))
            met[tag] = met.get(tag, 0) + 1
        own.append((jax.tree.structure(state), refs))
        _require_shapes(optimizer, state, [shape_of(jax.tree.leaves(whole)[n], c) for n, c in refs])
    return arrange(whole, own)


def _require_shapes(optimizer: Any, state: Any, expected: list[tuple[int, ...]]) -> None:
    found = [tuple(leaf.shape) for leaf in jax.tree.leaves(state)]
    if found != expected:
        odd = next((f, e) for f, e in zip(found, expected, strict=True) if f != e)
        raise ValueError(
            "pipelined: expected an optimiser that keeps of some copies of a repeat a part of what "
            f"it keeps of all, but {_names_of(optimizer)} keeps {odd[0]} where that part is "
            f"{odd[1]}: take serial in place of repeat, or leave its copies on one stage"
        )


def _names_of(optimizer: Any) -> str:
    return ", ".join(map(name_of, members(optimizer)))


def require_staged_gradient(train_state: TrainState, gradient: Callable | None) -> None:
    """Raise ValueError unless a train state in stages is given a gradient in them."""
    if isinstance(train_state.params, Staged) and not isinstance(gradient, pipelined):
        raise ValueError(
            "train: expected gradient to be the jaxnn.sharding.pipelined that train_state was laid "
            "out for by place_on_stages"
        )
