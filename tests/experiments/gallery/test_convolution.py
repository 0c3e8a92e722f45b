import numpy as np

from experiments.gallery import convolution


def test_the_worked_example_gives_the_printed_sums():
    example = convolution.worked_example()
    np.testing.assert_array_equal(example["patch"][..., 0], [[0, 0, 0], [0, 0, 1], [0, 2, 0]])
    np.testing.assert_array_equal(
        example["weight"][..., 0, 0], [[1, 1, -1], [0, -1, 0], [1, -1, -1]]
    )
    np.testing.assert_array_equal(example["sums"], [-2, 0, 1])
    assert example["sums"].sum() == -1
    assert example["output"].shape == (3, 3, 2)
    assert example["output"][0, 0, 0] == 0


def test_every_output_of_the_worked_example_is_the_sum_over_its_window():
    example = convolution.worked_example()
    for i in range(3):
        for j in range(3):
            window = example["padded"][2 * i : 2 * i + 3, 2 * j : 2 * j + 3, :, None]
            expected = (window * example["weight"]).sum((0, 1, 2)) + convolution.BIASES
            np.testing.assert_array_equal(example["output"][i, j], expected)


def test_a_1x1_convolution_is_a_dense_layer_at_every_pixel():
    assert convolution.pixelwise_difference() < 1e-6


def test_pooling_halves_the_sides_and_keeps_the_channels():
    shapes = {name: y for name, _, _, y in convolution.shapes()}
    assert shapes["maximum pooling"] == shapes["average pooling"] == "(1, 112, 112, 64)"
    assert shapes["3-D, a video"] == "(1, 16, 16, 16, 8)"


def test_pooling_takes_the_maximum_or_the_mean_of_each_window():
    result = convolution.pooled()
    np.testing.assert_array_equal(result["maximum"], [[5, 2], [2, 8]])
    np.testing.assert_array_equal(result["average"], [[3.25, 1], [1, 6]])
