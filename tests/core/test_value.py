"""Layers and losses as values: equal, hashed, copied, printed as what builds them."""

import copy
import inspect
import pickle
from typing import Literal

import jax
import jax.numpy as jnp
import pytest
from helpers import PUBLIC, normal
from samples import LAYERS, LOSSES, NETWORKS

import jaxnn as nn
from experiments.support.expressions import build
from jaxnn.core.value import WIDTH, Value

VALUES = {name: value for name, (value, *_) in (LAYERS | NETWORKS | LOSSES).items()}
NAMES = {
    name: value
    for name, value in PUBLIC.items()
    if inspect.isclass(value) and issubclass(value, Value)
} | {"Policy": nn.Policy}


@pytest.mark.parametrize("name", VALUES)
def test_the_repr_is_the_expression_that_builds_an_equal_value(name):
    value = VALUES[name]
    again = build(repr(value), "layer", NAMES)
    assert again == value
    if isinstance(value, nn.Layer):
        at_rest = nn.in_inference_mode(value)
        assert build(repr(at_rest), "layer", NAMES) == at_rest
    assert hash(again) == hash(value)
    assert repr(again) == repr(value)


@pytest.mark.parametrize("name", VALUES)
def test_values_can_be_pickled_and_copied(name):
    value = VALUES[name]
    assert pickle.loads(pickle.dumps(value)) == value
    assert copy.copy(value) == copy.deepcopy(value) == value


def test_every_public_layer_and_loss_is_among_the_examples():
    public = {
        kind
        for kind in NAMES.values()
        if inspect.isclass(kind) and issubclass(kind, nn.Layer | nn.Loss)
    }
    concrete = {kind for kind in public if not inspect.isabstract(kind)} - {nn.Layer, nn.Loss}
    assert {type(value) for value in VALUES.values()} >= concrete


def test_a_long_expression_is_an_indented_tree():
    network = nn.serial(
        stem=nn.conv(32, (3, 3)),
        body=nn.repeat(nn.skip(nn.dense(64), nn.relu(), nn.dense(64), nn.layer_norm()), 4),
        head=nn.dense(10),
    )
    assert repr(network) == (
        "serial(\n"
        "    stem=conv(32, (3, 3)),\n"
        "    body=repeat(skip(dense(64), relu(), dense(64), layer_norm()), 4),\n"
        "    head=dense(10),\n"
        ")"
    )
    assert max(map(len, repr(network).splitlines())) <= WIDTH


def test_equal_networks_are_traced_once_as_a_static_argument():
    traced = []

    def predict(network, params, state, x):
        traced.append(network)
        return network.predict(params, state, x)

    compiled = jax.jit(predict, static_argnums=0)
    x = normal(0, (2, 3))
    for _ in range(2):
        network = nn.serial(nn.dense(4), nn.relu())
        compiled(network, *network.init(jax.random.key(0), x), x)
    assert len(traced) == 1


def test_other_arguments_or_another_class_make_another_value():
    assert nn.dense(3) != nn.dense(4)
    assert nn.dense(3) != nn.dense(3, use_bias=False)
    assert nn.relu() != nn.tanh()
    assert nn.serial(a=nn.relu()) != nn.serial(b=nn.relu())


def test_fields_cannot_be_assigned():
    with pytest.raises(AttributeError):
        nn.dense(3).features = 4  # pyright: ignore


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: nn.straight_through(3),
            TypeError,
            "straight_through: expected layer to be a Layer",
        ),
        (lambda: nn.feedback_alignment("x"), TypeError, "feedback_alignment: expected layer to be"),
        (lambda: nn.recompute(nn.relu), TypeError, "recompute: expected layer .*call it"),
        (lambda: nn.conv(3, 10**10), ValueError, "conv: expected kernel_size .*at most 2147483647"),
        (lambda: nn.dense(10**10), ValueError, "dense: expected features to be at most"),
        (lambda: nn.dense(2.0), TypeError, "dense: expected features to be an integer, got 2.0"),
        (
            lambda: nn.dense(3, use_bias=1),
            TypeError,
            "dense: expected use_bias to be True or False",
        ),
        (lambda: nn.dense(3, weight_init="hee"), ValueError, "dense: weight_init: .*'he'"),
        (lambda: nn.dropout(1), ValueError, r"dropout: expected rate to lie in \[0, 1\), got 1"),
        (
            lambda: nn.dropout(jnp.ones(2)),
            TypeError,
            "dropout: expected rate to be a Python number",
        ),
        (lambda: nn.dense(jnp.arange(3)), TypeError, "dense: expected features to be an integer"),
        (lambda: nn.repeat(nn.relu(), 10**10), ValueError, "repeat: expected n to be at most"),
        (lambda: nn.lstm(3, output="lasst"), ValueError, "lstm: .*did you mean 'last'"),
        (lambda: nn.select([0, 1]), TypeError, "select: expected every one of indices"),
        (
            lambda: nn.serial(nn.relu(), a=nn.relu()),
            TypeError,
            "serial: expected all parts to have",
        ),
        (lambda: nn.serial(**{"a b": nn.relu()}), ValueError, "serial: .*identifier.*'a b'"),
        (lambda: nn.serial(**{"class": nn.relu()}), ValueError, "serial: .*identifier.*'class'"),
        (lambda: nn.serial(a=3), TypeError, "serial: expected a to be a Layer, got 3"),
    ],
)
def test_a_bad_field_is_refused_at_construction_by_layer_field_expected_and_given(
    make, error, message, untyped
):
    with pytest.raises(error, match=message):
        make()


def test_an_error_shows_no_more_than_the_beginning_of_a_long_value(untyped):
    with pytest.raises(TypeError) as caught:
        nn.straight_through("x" * 10**6)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("lists", "tuples"),
    [
        (lambda: nn.conv(3, [3, 3], strides=[1, 2]), lambda: nn.conv(3, (3, 3), strides=(1, 2))),
        (lambda: nn.max_pool([2, 2]), lambda: nn.max_pool((2, 2))),
        (lambda: nn.pad([[1, 1], [0, 2]]), lambda: nn.pad(((1, 1), (0, 2)))),
    ],
)
def test_lists_become_tuples(lists, tuples, untyped):
    assert lists() == tuples()
    assert hash(lists()) == hash(tuples())


def test_a_part_given_twice_by_name_is_refused_where_it_is_read():
    with pytest.raises(ValueError, match="layer"):
        build("serial(a=relu(), a=tanh())", "layer", NAMES)


class odd(nn.ParameterFree):
    """A layer with fields of every kind of annotation."""

    either: int | tuple[int, ...] = 1
    pair: tuple[int, float] = (1, 2.0)
    number: float = 1
    choice: Literal[1, 2] = 1

    def apply(self, x):
        return x, ()

    def pull_back(self, residuals, dy):
        return dy


@pytest.mark.parametrize(
    "options", [{"either": [1, 2]}, {"pair": [3, 1]}, {"number": 2}, {"choice": 2}]
)
def test_fields_of_ones_own_take_what_their_annotations_say(options, untyped):
    assert odd(**options) == odd(
        **{n: tuple(v) if isinstance(v, list) else v for n, v in options.items()}
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"either": "x"}, "expected either to be a tuple"),
        ({"pair": (1, 2.0, 3)}, "expected pair to be a tuple of 2"),
        ({"number": True}, "expected number to be a Python number"),
        ({"choice": 3}, "unknown choice 3"),
    ],
)
def test_fields_of_ones_own_refuse_the_rest(options, message, untyped):
    with pytest.raises((TypeError, ValueError), match=f"odd: {message}"):
        odd(**options)


def test_a_field_with_the_name_of_a_property_is_refused_where_the_class_is_made():
    with pytest.raises(TypeError, match="got 'parts': name the field otherwise"):

        class own_combinator(nn.Layer):
            parts: tuple[nn.Layer, ...]
