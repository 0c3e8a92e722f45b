import numpy as np
import pytest

from experiments.gallery import applications


@pytest.fixture(scope="module")
def prices():
    return applications.house_price()


def test_wine_probabilities_sum_to_one_and_name_the_right_grower():
    probabilities, labels = applications.wine(2, applications.WINE_INPUTS)
    assert probabilities.shape == (len(labels), 2)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)
    assert np.mean(probabilities.argmax(1) == labels) > 0.9


def test_descent_ends_in_the_least_squares_solution(prices):
    np.testing.assert_allclose(prices["descent"], prices["least squares"], rtol=1e-2)


def test_a_house_of_2104_square_feet_and_3_rooms_is_worth_about_400(prices):
    assert prices["the rule"][-1] == pytest.approx(400)
    assert prices["descent"][-1] == pytest.approx(400, abs=5)


def test_determination_is_one_for_the_truth_and_zero_for_its_mean():
    target = np.array([1.0, 2.0, 6.0])
    assert applications.determination(target, target) == 1
    assert applications.determination(np.full(3, 3.0), target) == 0


def test_clicks_happen_as_often_as_their_probabilities_say():
    _, clicks, probability = applications.advertisements(50_000)
    assert np.mean(clicks) == pytest.approx(np.mean(probability), abs=0.01)


def test_learned_click_probabilities_are_near_the_true_ones():
    learned, true, clicks = applications.click(examples=10_000, epochs=10)
    assert np.mean(np.abs(learned - true)) < 0.3 * np.mean(np.abs(true.mean() - true))
    excess = applications.cross_entropy(learned, clicks) - applications.cross_entropy(true, clicks)
    assert abs(excess) < 0.05


def test_only_both_sensors_together_tell_the_position():
    located = applications.locate(examples=1000, epochs=8)
    error = applications.distances(located)
    both = error.pop("camera and radar")
    assert both < 0.5 * min(error.values())


def test_positions_are_those_of_the_spot_and_of_the_echo():
    (images, signals), positions = applications.targets(200)
    column = images.sum((1, 3)).argmax(1) / (applications.SIDE - 1)
    delay = signals[:, :, 0].argmax(1) / (applications.SAMPLES - 1)
    direction, distance = (column - 0.5) * np.pi / 2, 11 * delay
    guess = distance[:, None] * np.stack([np.sin(direction), np.cos(direction)], 1)
    assert np.median(np.linalg.norm(guess - positions, axis=1)) < 1
