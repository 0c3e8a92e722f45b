import numpy as np
import pytest

from jaxnn.training import SCHEDULES, make_schedule
from jaxnn.training.schedules import NAMES_OF_OPTAX


def rates(name, steps, at, options=None):
    schedule = make_schedule(name, 2.0, steps, options)
    return [float(schedule(step)) for step in at]


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("constant", {}, [2.0, 2.0, 2.0]),
        ("cosine", {}, [2.0, 1.0, 0.0]),
        ("cosine", {"final": 0.5}, [2.0, 1.5, 1.0]),
        ("linear", {}, [2.0, 1.0, 0.0]),
        ("linear", {"final": 0.25}, [2.0, 1.25, 0.5]),
        ("exponential", {}, [2.0, 0.2, 0.02]),
        ("exponential", {"final": 0.25}, [2.0, 1.0, 0.5]),
        ("step", {"at": (0.25, 0.75), "factor": 0.5}, [2.0, 1.0, 0.5]),
        ("polynomial", {}, [2.0, 0.5, 0.0]),
        ("polynomial", {"power": 1, "final": 0.5}, [2.0, 1.5, 1.0]),
        ("onecycle", {"rise": 0.5, "start": 0.25, "final": 0.1}, [0.5, 2.0, 0.2]),
        ("sgdr", {"cycles": 2, "shrink": 0.5}, [2.0, 1.0, 0.0]),
        ("interpolate", {"at": (0.5, 1.0), "factors": (0.5, 0.1)}, [2.0, 1.0, 0.1]),
    ],
)
def test_begin_middle_and_end(name, options, expected):
    np.testing.assert_allclose(rates(name, 100, (0, 50, 100), options), expected, atol=1e-6)


def test_a_step_falls_where_it_should():
    at = (49, 51, 74, 76)
    np.testing.assert_allclose(rates("step", 100, at), [2.0, 0.2, 0.2, 0.02], rtol=1e-5)


def test_schedules_have_their_names_of_optax_too():
    for name, ours in NAMES_OF_OPTAX.items():
        options = {"warmup": 0.1} if name.startswith("warmup") else {}
        assert rates(name, 20, range(20)) == rates(ours, 20, range(20), options)


@pytest.mark.parametrize("name", sorted({*SCHEDULES} - {"onecycle"}))
def test_warmup_rises_from_zero_to_the_peak_and_the_schedule_follows(name):
    warm = rates(name, 100, (0, 10, 20), {"warmup": 0.2})
    np.testing.assert_allclose(warm, [0.0, 1.0, 2.0], rtol=1e-5)
    after = rates(name, 100, range(20, 100, 10), {"warmup": 0.2})
    np.testing.assert_allclose(after, rates(name, 80, range(0, 80, 10)), rtol=1e-5)


@pytest.mark.parametrize("name", sorted({*SCHEDULES} - {"onecycle", "interpolate"}))
def test_a_single_step_has_the_peak(name):
    assert rates(name, 1, (0,)) == [2.0]


@pytest.mark.parametrize(
    ("name", "peak", "steps", "options", "message"),
    [
        ("cosin", 1.0, 9, {}, "unknown schedule 'cosin': did you mean 'cosine'"),
        ("cosine", 1.0, 9, {"finale": 0.1}, "unknown option of schedule cosine.*'final'"),
        ("constant", 1.0, 9, {"final": 0.1}, "unknown option of schedule constant"),
        ("cosine", 1.0, 9, {"final": 2.0}, "final"),
        ("cosine", 1.0, 9, {"warmup": 1.5}, "warmup"),
        ("exponential", 1.0, 9, {"final": 0.0}, "final"),
        ("step", 1.0, 9, {"at": (0.5, 1.5)}, "at"),
        ("step", 1.0, 9, {"factor": 0.0}, "factor"),
        ("interpolate", 1.0, 9, {"at": (0.5,)}, "as many factors as times"),
        ("interpolate", 1.0, 9, {"kind": "cubic"}, "unknown kind 'cubic'"),
        ("sgdr", 1.0, 9, {"cycles": 0}, "cycles"),
        ("onecycle", 1.0, 9, {"rise": 1.0}, "rise"),
        ("polynomial", 1.0, 9, {"power": 0.0}, "power"),
        ("constant", -1.0, 9, {}, "learning_rate"),
        ("constant", 1.0, 0, {}, "steps"),
    ],
)
def test_what_is_wrong_with_a_schedule_is_named(name, peak, steps, options, message):
    with pytest.raises(ValueError, match=message):
        make_schedule(name, peak, steps, options)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("at", [0.5, "x", None])
def test_times_that_are_no_list_are_named(at):
    with pytest.raises((ValueError, TypeError), match="expected at to be a tuple of fractions"):
        make_schedule("step", 1.0, 9, {"at": at})
