import numpy as np

from experiments.gallery import numerical_gradient


def test_the_three_gradients_of_the_gallery_agree():
    numerical_gradient.agreement().require()


def test_the_error_of_differences_has_a_rounding_and_a_truncation_branch():
    steps = (1e-1, 1e-2, 1e-5, 1e-9)
    large, smaller, best, rounded = numerical_gradient.errors("float64", steps)
    np.testing.assert_allclose(large / smaller, 100, rtol=0.1)  # error ~ h²
    assert best < 1e-9
    assert rounded > 10 * best
