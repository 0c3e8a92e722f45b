"""What is true of all functions: there is one for each layer and loss, and it can be read."""

import inspect
import pickle
import pydoc
import subprocess
import sys

import pytest

from jaxnn import functional

PARTS = "made of other layers, whose parameters are a tree: `interop.differentiable`"
LAYERS_WITHOUT_FUNCTION = {
    **dict.fromkeys(("serial", "fork", "parallel", "on", "skip", "share", "repeat"), PARTS),
    **dict.fromkeys(("bidirectional", "feed_forward", "transformer_block"), PARTS),
    **dict.fromkeys(("recompute", "compress", "reversible", "straight_through"), PARTS),
    **dict.fromkeys(("sampled", "low_precision_deltas", "quantized", "auxiliary_heads"), PARTS),
    **dict.fromkeys(("weight_norm", "spectral_norm", "with_precision"), PARTS),
    **dict.fromkeys(
        ("feedback_alignment", "direct_feedback_alignment", "kolen_pollack", "sign_concordant"),
        "has feedback weights as its state",
    ),
    **dict.fromkeys(("batch_norm", "batch_norm_at_rest"), "has running statistics as its state"),
    **dict.fromkeys(
        (
            *("identity", "add", "multiply", "concatenate", "select", "split", "flatten"),
            *("reshape", "center_crop"),
        ),
        "jax.numpy has it, and nothing is to be derived",
    ),
    "projection": "dense, for a loss that multiplies itself: `functional.projected_cross_entropy`",
    "projection_at_rest": "dense, by another name",
}

FUNCTIONS = [name for name, f in vars(functional).items() if inspect.isfunction(f)]


def test_every_layer_and_loss_without_state_has_a_function():
    from experiments.support.config import LAYERS, LOSSES

    public = {*LAYERS, *LOSSES} - {"Policy"}
    assert public - {*FUNCTIONS} == {*LAYERS_WITHOUT_FUNCTION}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_says_what_it_computes_and_takes(name):
    function = getattr(functional, name)
    text, parameters = function.__doc__, inspect.signature(function).parameters
    help_text = pydoc.plain(pydoc.render_doc(function)).splitlines()
    # A long signature has a line for each parameter from Python 3.13 on.
    signature = "".join(line.strip() for line in help_text[2:4])
    assert signature.startswith(f"{function.__name__}({next(iter(parameters))}")
    arguments = text.split("Args:\n", 1)[1].split("\n\nRaises:", 1)[0]
    named = [line.split(":")[0].strip() for line in arguments.splitlines() if line[4] != " "]
    assert named == [name for name in parameters if name in named]
    first = next(iter(parameters))
    assert first in named
    assert "Its derivative is derived by hand, in `jaxnn." in text


def test_a_function_has_the_options_of_its_layer():
    signature = str(inspect.signature(functional.leaky_relu))
    assert signature == "(x, negative_slope: float = 0.01)"
    assert list(inspect.signature(functional.group_norm).parameters)[:4] == [
        "x",
        "groups",
        "scale",
        "offset",
    ]
    assert functional.softmax.__doc__.startswith("yᵢ = e^(xᵢ − c)")


def test_functions_can_be_pickled():
    function = pickle.loads(pickle.dumps(functional.softmax))
    assert function is functional.softmax


def test_they_are_found_at_first_use():
    program = (
        "import sys, jaxnn\n"
        "assert 'jaxnn.functional' not in sys.modules\n"
        "print(jaxnn.functional.relu(-1.0))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "0.0\n", done.stderr
