"""The whole contract: a layer has four pure methods, a loss two, a capture is a gradient to be.

Arrays have the batch first. ``x`` and ``y`` are arrays or tuples of them (masks and lengths travel
as members), ``params`` is a dict of arrays for a layer that has some and ``()`` for one that has
none, ``state`` is what training changes without a gradient (running statistics), usually ``()``.
``dx`` has ``None`` for what has no gradient.
"""

import abc
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
from jax import Array

from jaxnn.core.residuals import forget_what_a_base_said, guard_passes
from jaxnn.core.task import Task
from jaxnn.core.value import Value


class Layer(Value):
    """A differentiable function with parameters, and its backward pass written by hand.

    A subclass is a frozen dataclass whose fields are its arguments; see `jaxnn.core.value`. What
    its ``forward`` returns as residuals, and nothing else of it, its ``backward`` is given; that dy
    has the structure, shape and dtype of y is checked before.
    """

    mixes: ClassVar[bool | None] = None
    """Whether the examples of a batch depend on each other in training; None where nobody has said,
    and it is found out (see `jaxnn.core.mixing`). An abstract base says it for its subclasses, any
    other class for those alone that have no method of their own."""
    forgets: ClassVar[bool] = False
    """Whether backward runs forward again; the residuals of its parts are in its ``keeping``."""

    def init(self, key: Array | None, x: Any) -> tuple[Any, Any]:
        """(params, state), for an x of arrays or `jax.ShapeDtypeStruct`."""
        return (), ()

    def predict(self, params: Any, state: Any, x: Any) -> Any:
        """y: inference, the textbook definition."""
        return self.forward(params, state, x, None)[0]

    @abc.abstractmethod
    def forward(self, params: Any, state: Any, x: Any, key: Array | None) -> tuple[Any, Any, Any]:
        """(y, state, residuals): training; keeps what backward needs."""

    @abc.abstractmethod
    def backward(self, params: Any, residuals: Any, dy: Any) -> tuple[Any, Any]:
        """(dx, captures): derived by hand, linear in dy. ``params`` serve to propagate alone: a
        rule may give others than forward had."""

    # Views: the same layer, with the same params and state, seen otherwise. `jaxnn.core.networks`
    # takes them of a whole network, parts first.

    def at_rest(self) -> "Layer":
        """Whose forward pass is this one's predict: no noise, no statistics of the batch."""
        return self

    def summing(self) -> "Layer":
        """Of whose captures nothing but the gradient is wanted: it may contract them as they arise
        (`ContractedCapture`), where that saves memory or time."""
        return self

    def fused(self) -> "Layer":
        """Whose parts are computed together where they can be."""
        return self

    def plain(self) -> "Layer":
        """With the true gradient, where this one puts another in its place."""
        return self

    def fused_with(self, *following: "Layer") -> tuple["Layer", ...]:
        """What stands for this layer and the first of those ``following`` it in a `serial`, as many
        layers, computed together; empty where nothing does."""
        return ()

    @property
    def wide(self) -> bool:
        """Whether it computes in at least float32 under any policy of precision."""
        return False

    # Layers made of others. Params, state, residuals and captures are then tuples with one entry
    # for each part, so that any network can be walked.

    @property
    def parts(self) -> tuple["Layer", ...]:
        """The layers inside."""
        return ()

    @property
    def part_names(self) -> tuple[str, ...]:
        """What paths call the parts; "" for one that takes no place of its own."""
        return tuple(map(str, range(len(self.parts))))

    def with_parts(self, parts: tuple["Layer", ...]) -> "Layer":
        """The same around other parts."""
        return self

    def of_parts(self, tree: Any) -> tuple:
        """The parts' own trees, in one of params, state, captures or gradients of this layer."""
        return tree

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        forget_what_a_base_said(cls)
        guard_passes(cls)


class Loss(Value):
    """A loss for each example of a batch; gradient functions take its weighted mean over it."""

    mixes: ClassVar[bool | None] = None
    """Whether examples' losses depend on each other, as a layer's; ``gradient`` is of their sum."""

    @abc.abstractmethod
    def value(self, prediction: Any, target: Any) -> Array:
        """[batch], each example's own loss."""

    @abc.abstractmethod
    def gradient(self, prediction: Any, target: Any) -> Any:
        """The gradient of each example's own loss by its prediction."""

    def weighted(self, prediction: Any, target: Any, factors: Array) -> tuple[Array, Any]:
        """(values, gradient of Σ factors[b] l_b by the prediction), where both are had at once."""
        scale = jax.vmap(lambda f, own: jax.tree.map(lambda a: a * f.astype(a.dtype), own))
        return self.value(prediction, target), scale(factors, self.gradient(prediction, target))

    def leaving_out(self, target: Any, absent: Array) -> Any:
        """The target that says which examples, booleans [batch], do not count for others."""
        return target

    @property
    def root_known(self) -> bool:
        """Whether `hessian_root` is there."""
        return False

    def hessian_root(self, prediction: Any, target: Any, v: Any) -> Any:
        """S v for a root S of the Hessian of each example's loss: S Sᵀ = ∂²l/∂y²."""
        raise ValueError(f"{self.name}: expected a loss whose hessian_root is known")

    def task(self, classes: int) -> Task:
        """How it is used on data with this many classes, 0 for numbers."""
        raise ValueError(
            f"{self.name}: expected a loss of one label or number for each example, which this one "
            "is not; train with it from Python"
        )


class Capture:
    """What entered the parameters and the delta (the cotangent) at their output, not contracted: a
    dataclass registered by JAX, which rebuilds it with placeholders, so that it checks nothing.

    A captures tree mirrors the params tree, one capture for each dict of parameters. The inputs of
    a capture do not depend on dy; its deltas are linear in it. All its arrays have the batch first:
    an extra leading axis is wrapped explicitly (`StackedCapture`).
    """

    @property
    def mixes(self) -> str | None:
        """Who mixed the examples of the batch into the inputs."""
        return None

    @property
    def summed_by(self) -> str | None:
        """Who has summed the gradient over the batch already."""
        return None

    def gradient(self) -> Any:
        """Σ over batch and positions, in the tree of the parameters."""
        raise NotImplementedError

    def join(self, *others: Any) -> "Capture":
        """Several uses of the same parameters in the same example, joined along positions before
        any contraction: the norm of a sum is not the sum of norms."""
        raise NotImplementedError

    def map_deltas(self, function: Callable[[Array], Array]) -> "Capture":
        """With ``function`` of the deltas: the one way to scale, mask, cast or select examples."""
        raise NotImplementedError

    def without(self, absent: Array) -> "Capture":
        """With zeros in place of all that it holds of the examples in ``absent`` [batch]."""
        where = jax.vmap(lambda out, a: jax.numpy.where(out, jax.numpy.zeros_like(a), a))
        return jax.tree.map(partial(where, absent), self)

    def scaled(self, factor: Any) -> "Capture":
        """With deltas times one number."""
        return self.map_deltas(lambda deltas: deltas * jax.numpy.asarray(factor, deltas.dtype))

    def linear(self) -> "Capture | None":
        """The `LinearCapture` behind it with positions on one axis (or a stack of them, one for
        each group), where its parameters are those of a linear map."""
        return None

    def fold(self, parameters: Any) -> Any:
        """Parameters of the `linear` capture in the shapes of this one's own, by static fields."""
        return parameters
