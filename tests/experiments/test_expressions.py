import pytest

import jaxnn as nn
from experiments.config import LAYERS, LOSSES
from experiments.expressions import Call, build, parse


def factory(size=1, *, name="a", inner=None):
    return (size, name, inner)


FACTORIES = {"factory": factory}


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
    ],
)
@pytest.mark.usefixtures("untyped")
def test_what_is_wrong_with_a_layer_is_named_with_the_nearest_name(text, message):
    with pytest.raises(ValueError, match=message):
        build(text, "layer", LAYERS)


def test_layers_and_losses_of_the_library_can_be_named():
    assert build("skip(dense(3), serial(relu, dense(3)))", "layer", LAYERS).name == "skip"
    assert build("huber(delta=2.0)", "loss", LOSSES).name == "huber"
    assert {"dense", "relu", "batch_norm", "dropout", "serial", "skip", "repeat"} <= set(LAYERS)
    assert {"softmax_cross_entropy", "hinge", "mean_squared_error"} <= set(LOSSES)
    of_another_loss = LOSSES["sequence_loss"]
    others = (factory for factory in LOSSES.values() if factory is not of_another_loss)
    assert all(isinstance(factory(), nn.Loss) for factory in others)
    assert isinstance(build("sequence_loss(hinge())", "loss", LOSSES), nn.Loss)


def test_a_call_keeps_its_options():
    assert parse("adam(b1=0.95)", "optimizer") == Call("adam", (), {"b1": 0.95})
