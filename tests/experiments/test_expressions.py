from typing import NamedTuple

import pytest

import jaxnn as nn
from experiments.support.config import LAYERS, LOSSES
from experiments.support.expressions import Call, build, parse


def factory(size=1, *, name="a", inner=None):
    return (size, name, inner)


class Settings(NamedTuple):
    size: int = 1
    name: str = "a"


class parts(NamedTuple):
    """What takes parts of any name, and options of its own."""

    layers: tuple
    named: dict
    rate: float


def with_parts(*layers, rate=0.5, **named):
    return parts(layers, named, rate)


FACTORIES = {"factory": factory, "Settings": Settings, "with_parts": with_parts}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("factory", (1, "a", None)),
        ("factory()", (1, "a", None)),
        (" factory(3) ", (3, "a", None)),
        ("factory(-3)", (-3, "a", None)),
        ("factory((3, 4), name='b')", ((3, 4), "b", None)),
        ("factory([1, 2.5], name=None)", ([1, 2.5], None, None)),
        ("factory(inner=factory(2))", (1, "a", (2, "a", None))),
        ("factory(factory(factory))", (((1, "a", None), "a", None), "a", None)),
        ("factory(name='__import__(\"os\")')", (1, '__import__("os")', None)),
        ("factory(\n    -3,\n    inner=factory(\n        2,\n    ),\n)", (-3, "a", (2, "a", None))),
        ("factory(((1, 0), (0, -1)))", (((1, 0), (0, -1)), "a", None)),
        ("factory(Settings(2, name='b'))", (Settings(2, "b"), "a", None)),
        (
            "with_parts(stem=factory(), head=factory(2))",
            ((), {"stem": (1, "a", None), "head": (2, "a", None)}, 0.5),
        ),
        ("with_parts(factory, rate=0.1)", (((1, "a", None),), {}, 0.1)),
    ],
)
def test_names_calls_and_literals_are_read_as_python_reads_them(text, expected):
    assert build(text, "thing", FACTORIES) == expected


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "factory.__globals__",
        "factory(__import__('os'))",
        "factory(open('x', 'w'))",
        "factory((lambda: 1)())",
        "factory(lambda: 1)",
        "factory([factory])",
        "factory(*[1])",
        "factory(**{'size': 1})",
        "factory(x for x in (1,))",
        "factory(size:=2)",
        "factory(f'{1}')",
        "factory(1 + 1)",
        "(factory)(1)(2)",
        "factory; factory",
        "factory if 1 else factory",
        "factory()\nfactory()",
        "-" * 10_000 + "1",
        "factory(" + "-" * 700 + "1)",
        "factory(" * 10_000,
        "1",
        "'factory'",
        "",
        "factory(",
        "\0",
    ],
)
def test_nothing_else_is_evaluated(text, tmp_path):
    with pytest.raises(ValueError, match=r"expected|unknown"):
        build(text, "thing", FACTORIES)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("denes(3)", "unknown layer 'denes': did you mean 'dense'"),
        ("skip(rleu())", "in 'skip.*unknown layer 'rleu': did you mean 'relu'"),
        (
            "dense(3, use_bais=True)",
            "unknown option of layer dense 'use_bais': did you mean 'use_bias'",
        ),
        ("dense()", "layer dense.*missing a required argument: 'features'"),
        ("dense(3, 4)", "layer dense.*too many positional arguments"),
        ("dense(0)", "dense: expected features to be at least 1, got 0"),
        ("dense('x')", "dense: expected features to be an integer, got 'x'"),
        ("dropout(2.0)", r"in 'dropout\(2.0\)': dropout: expected rate"),
        ("relu(x=3)", "layer relu has no options, got x"),
        ("select(indices=3)", "layer select has no options, got indices"),
        ("serial(a=relu(), a=tanh())", "layer serial: expected every option once, got a 2 times"),
        ("serial(stem=relu(), 3)", "expected layer to be a call"),
        ("serial(stem=3)", "serial: expected stem to be a Layer, got 3"),
        ("serial(relu(), n=4)", "serial: expected all parts to have names, or none"),
        ("serial(stem=rleu())", "unknown layer 'rleu': did you mean 'relu'"),
        ("repeat(relu(), n=3, m=2)", "unknown option of layer repeat 'm'"),
        ("with_precision(relu(), Policy(compute='float12'))", "unknown dtype of compute 'float12'"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_what_is_wrong_with_a_layer_is_named_with_the_nearest_name(text, message):
    with pytest.raises(ValueError, match=message):
        build(text, "layer", LAYERS)


def test_layers_and_losses_of_the_library_can_be_named():
    skip = build("skip(dense(3), serial(relu, dense(3)))", "layer", LAYERS)
    assert skip == nn.skip(nn.dense(3), nn.serial(nn.relu(), nn.dense(3)))
    assert build("huber(delta=2.0)", "loss", LOSSES) == nn.huber(delta=2.0)
    assert {"dense", "relu", "batch_norm", "dropout", "serial", "skip", "repeat"} <= set(LAYERS)
    assert {"softmax_cross_entropy", "hinge", "mean_squared_error"} <= set(LOSSES)
    of_another_loss = LOSSES["sequence_loss"]
    others = (factory for factory in LOSSES.values() if factory is not of_another_loss)
    assert all(isinstance(factory(), nn.Loss) for factory in others)
    assert isinstance(build("sequence_loss(hinge())", "loss", LOSSES), nn.Loss)


def test_only_what_can_be_made_can_be_named():
    assert not {"Layer", "ParameterFree", "Pointwise"} & set(LAYERS)
    assert not {"fuse", "in_inference_mode", "parameter_free", "pointwise", "rewrite"} & set(LAYERS)
    assert "Loss" not in LOSSES


def test_an_option_is_not_taken_for_the_name_of_a_part():
    with pytest.raises(
        ValueError, match="unknown option of thing with_parts 'rat': did you mean 'rate'"
    ):
        build("with_parts(factory(), rat=0.1)", "thing", FACTORIES)


def test_a_long_text_is_not_repeated_in_full():
    with pytest.raises(ValueError, match="unknown thing 'wrong'") as caught:
        build(f"factory({'(1, 2), ' * 10_000}wrong())", "thing", FACTORIES)
    assert len(str(caught.value)) < 500


def test_a_network_comes_back_from_its_own_text():
    network = nn.serial(
        stem=nn.serial(nn.conv(4, (3, 3), padding=((1, 0), (0, 1))), nn.leaky_relu(0.2)),
        body=nn.with_precision(nn.repeat(nn.skip(nn.dense(4)), 3), nn.POLICIES["float16"]),
        head=nn.feedback_alignment(nn.dense(10, weight_init="normal(0.5)")),
    )
    assert len(repr(network).splitlines()) > 1
    assert build(repr(network), "layer", LAYERS) == network


def test_a_call_keeps_its_options():
    assert parse("adam(b1=0.95)", "optimizer") == Call("adam", (), {"b1": 0.95})
