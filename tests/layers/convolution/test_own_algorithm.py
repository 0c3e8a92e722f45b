"""An algorithm of convolution that is defined outside of the package, in this one file."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from chex import assert_trees_all_close, assert_trees_all_equal
from helpers import PUBLIC, assert_agree, initialized, normal, passes

import jaxnn as nn
from jaxnn.kernels.convolution import choosing, direct


@dataclass(frozen=True)
class Fourier:
    """y = F⁻¹(F(x) · F(W)*), for square kernels of odd size that keep the size of x."""

    TAKES = "an odd square kernel with stride 1 and padding that keeps the size"

    def applies(self, geometry, inputs):
        """Whether this can compute it."""
        return (
            geometry.dimensions == 2
            and geometry.strides == geometry.dilation == (1, 1)
            and geometry.groups == 1
            and len(set(geometry.kernel_size)) == 1
            and geometry.padding == tuple((k // 2, k // 2) for k in geometry.kernel_size)
        )

    def forward(self, x, weight, geometry):
        """Σ_t x[p + t] W[t]."""
        size = self._size(geometry)
        product = jnp.einsum(
            "bhwi,hwio->bhwo", self._transform(x, size, 1), self._transform(weight, size, 0).conj()
        )
        return self._back(product, geometry, 1)

    def input_gradient(self, dy, weight, geometry):
        """The convolution with the mirrored kernel."""
        mirrored = jnp.flip(weight, (0, 1)).swapaxes(-1, -2)
        return self.forward(dy, mirrored, geometry.transposed)

    def weight_gradient(self, x, dy, geometry):
        """Σ_p x[p + t] dy[p]."""
        size = self._size(geometry)
        product = jnp.einsum(
            "bhwi,bhwo->hwio", self._transform(x, size, 1), self._transform(dy, size, 1).conj()
        )
        taps = self._shifted(jnp.fft.irfft2(product, size, (0, 1)), geometry, 0)
        height, width = geometry.kernel_size
        return taps[:height, :width].astype(dy.dtype)

    def _size(self, geometry):
        return tuple(n + k - 1 for n, k in zip(geometry.size, geometry.kernel_size, strict=True))

    def _transform(self, a, size, first):
        return jnp.fft.rfft2(a, size, (first, first + 1))

    def _shifted(self, a, geometry, first):
        shifts = tuple(k // 2 for k in geometry.kernel_size)
        return jnp.roll(a, shifts, (first, first + 1))

    def _back(self, product, geometry, first):
        y = jnp.fft.irfft2(product, self._size(geometry), (first, first + 1))
        height, width = geometry.output_size
        return self._shifted(y, geometry, first)[:, :height, :width]


X, TARGET = normal(0, (6, 8, 7, 2), np.float32), jnp.arange(6) % 3
LOSS = nn.softmax_cross_entropy()


def network(algorithm=None):
    return nn.serial(
        nn.conv(5, (3, 3), algorithm=algorithm),
        *(nn.relu(), nn.max_pool(2)),
        *(nn.flatten(), nn.dense(3)),
    )


def trained(network, steps=5):
    params, state = initialized(network, X)
    optimizer = optax.adam(1e-2)
    moments = optimizer.init(params)
    step = jax.jit(nn.backprop(network, LOSS))
    for _ in range(steps):
        (value, state), gradient = step(params, state, X, TARGET)
        updates, moments = optimizer.update(gradient, moments)
        params = optax.apply_updates(params, updates)
    return value, params


@pytest.fixture
def fourier_in_the_table(monkeypatch):
    monkeypatch.setitem(choosing.ALGORITHMS, "fourier", Fourier())


@pytest.fixture
def fourier_in_the_rule(fourier_in_the_table, monkeypatch):
    line = choosing.Line("fourier", lambda case: case.geometry.taps > 8, "large kernels")
    monkeypatch.setattr(choosing, "RULE", [line, *choosing.RULE])


@pytest.mark.parametrize("make", [nn.conv, nn.conv_transpose])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_it_has_the_passes_of_the_library(make, kernel_size, x64):
    layers = (make(3, (kernel_size,) * 2, algorithm=a) for a in (Fourier(), "direct"))
    x = normal(0, (2, 6, 7, 2))
    found, expected = (passes(one, initialized(one, x)[0], (), x) for one in layers)
    assert_agree(found, expected, 1e-12)


def test_it_keeps_the_laws():
    nn.check_layer(nn.conv(3, (3, 3), algorithm=Fourier()), normal(0, (3, 5, 4, 2))).require()


def test_it_trains_as_the_others_do(x64):
    found, expected = trained(network(Fourier())), trained(network("direct"))
    assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)
    assert found[0] < 1


def test_a_name_in_the_table_stands_for_it(fourier_in_the_table):
    named = network("fourier")
    assert eval(repr(named), dict(PUBLIC)) == named
    assert_trees_all_equal(trained(named, 1), trained(network(Fourier()), 1))


def test_a_line_in_the_rule_chooses_it_where_it_applies(fourier_in_the_rule):
    layer = nn.conv(5, (3, 3))
    chosen = [
        choosing.choose(name, layer.plan(x)[1], 2, 5, x.dtype)
        for name in choosing.PASSES
        for x in (X, X.astype(jnp.bfloat16))
    ]
    assert {choice[:2] for choice in chosen} == {("fourier", "large kernels")}
    strided = nn.conv(5, (3, 3), strides=2).plan(X)[1]
    assert choosing.choose("forward", strided, 2, 5, X.dtype).algorithm != "fourier"


def test_a_chosen_one_is_what_a_layer_computes_with(fourier_in_the_rule):
    assert_trees_all_equal(trained(network(), 1), trained(network(Fourier()), 1))


def test_it_says_what_it_takes_where_it_does_not_apply():
    layer = nn.conv(4, (3, 3), strides=2, algorithm=Fourier())
    message = r"algorithm Fourier\(\) to be given an odd square kernel with stride 1 and padding"
    with pytest.raises(ValueError, match=f"conv: expected {message}"):
        layer.init(jax.random.key(0), X)


class OnlyPasses:
    """What is asked of an algorithm at least: three functions."""

    forward = staticmethod(direct.forward)
    input_gradient = staticmethod(direct.input_gradient)
    weight_gradient = staticmethod(direct.weight_gradient)


@pytest.mark.parametrize(
    "algorithm", [direct, OnlyPasses, OnlyPasses()], ids=["module", "class", "object"]
)
def test_a_module_a_class_and_an_object_will_do(algorithm):
    found, expected = trained(network(algorithm), 1), trained(network("direct"), 1)
    assert_trees_all_equal(found, expected)


@dataclass
class Unhashable(OnlyPasses):
    """A dataclass that is not frozen."""


def test_an_algorithm_that_cannot_be_hashed_is_refused():
    with pytest.raises(TypeError, match="conv: expected algorithm to be hashable"):
        nn.conv(4, 3, algorithm=Unhashable())
