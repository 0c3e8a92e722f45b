import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.core import validation


def test_a_shape_and_dtype_stands_for_an_array():
    validation.require_floating("f", "x", jax.ShapeDtypeStruct((2,), jnp.float32))
    validation.require_rank("f", "x", jax.ShapeDtypeStruct((2,), int), 1)


@pytest.mark.parametrize("value", [3, 0.5, 1.0])
def test_numbers_within_the_bounds_pass(value):
    validation.require_number("f", "a", value, minimum=0.5, maximum=3)


@pytest.mark.parametrize(
    ("bounds", "value", "interval"),
    [
        ({"minimum": 0}, -1, r"\[0, inf\)"),
        ({"minimum": 0, "open_minimum": True}, 0, r"\(0, inf\)"),
        ({"maximum": 1}, 2, r"\(-inf, 1\]"),
        ({"minimum": 0, "maximum": 1, "open_maximum": True}, 1, r"\[0, 1\)"),
        ({}, float("nan"), r"\(-inf, inf\)"),
        ({}, float("inf"), r"\(-inf, inf\)"),
    ],
)
def test_a_number_outside_of_the_bounds_is_refused(bounds, value, interval):
    with pytest.raises(ValueError, match=f"f: expected a to lie in {interval}, got {value}"):
        validation.require_number("f", "a", value, **bounds)


@pytest.mark.parametrize("value", ["1", None, True, np.float64(1), np.float32(1), 1j])
def test_what_is_no_python_number_is_refused(value):
    with pytest.raises(TypeError, match="f: expected a to be a Python number, got"):
        validation.require_number("f", "a", value)


def test_batch_size_is_the_first_axis_of_all():
    assert validation.batch_size("f", (np.ones((3, 2)), {"a": np.ones(3)})) == 3


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ((), "to hold at least one array"),
        (np.float32(1), "to have a batch axis"),
        ((np.ones(2), np.ones(3)), r"expected one batch size in x, got \[2, 3\]"),
    ],
)
def test_inputs_without_one_batch_size_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        validation.batch_size("f", x)


def test_an_unknown_name_is_answered_with_the_nearest_and_all():
    message = validation.unknown_name("loss", "hing", ["huber", "hinge"])
    assert message == "unknown loss 'hing': did you mean 'hinge'? valid are hinge, huber"


@pytest.mark.parametrize("length", [5, 5000])
def test_of_many_valid_names_a_message_has_the_nearest_and_how_many_more(length):
    names = [f"{'column'[:length]}_{i}".ljust(length, "x") for i in range(60_000)]
    message = validation.unknown_name("column", "column_59998", names)
    assert len(message) < 1000
    assert "column_59998" in message
    assert message.endswith("and 59992 more")


def test_few_names_are_all_listed():
    assert validation.listed(["b", "a\x1b[2J"]) == "b, a\\x1b[2J"
    assert len(validation.listed(["\0" * 30] * 40)) < 1500
    assert validation.listed(map(str, range(1000))) == "0, 1, 2, 3, 4, 5, 6, 7 and 992 more"


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain ä🙂 text,\n\tin lines", None),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("back\rspace\b", "back\\rspace\\x08"),
        ("\x9b2J", "\\x9b2J"),
        ("turned \u202e round", "turned \\u202e round"),
        ("half \ud800", "half \\ud800"),
    ],
)
def test_what_would_steer_a_terminal_is_escaped(text, safe):
    assert validation.printable(text) == (safe or text)


def test_an_error_shows_no_more_than_the_beginning_of_a_value():
    assert len(validation.brief("x" * 10**6)) < 300
    assert validation.brief([1, 2]) == "[1, 2]"


def test_an_integer_too_long_to_be_written_is_called_very_large():
    assert validation.brief(1 << 10**6) == "a very large int"
