"""Exercises that grade themselves, in the order in which they teach: `experiments.exercises`."""

from experiments.lessons import (
    activations,
    attention,
    convolution,
    dense,
    embedding,
    losses,
    normalization,
    perceptrons,
    pooling,
    recurrent,
)

EXERCISES = {
    exercise.name: exercise
    for family in (
        perceptrons,
        activations,
        losses,
        dense,
        convolution,
        pooling,
        normalization,
        embedding,
        recurrent,
        attention,
    )
    for exercise in family.EXERCISES
}
"""Every exercise by name."""
