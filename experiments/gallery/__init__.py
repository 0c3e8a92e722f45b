"""The gallery: every system of the source notes as one short script with its numbers and pictures.

A theme is a module of this package. Its docstring opens with the theme's title and then derives
what it shows; ``FORMULAS`` are the main ones in LaTeX, to be typeset; its function
``run() -> Result`` computes, draws and explains; run as a script it calls ``alone``. A line in
``THEMES`` puts it into the gallery:

    python -m experiments.gallery --output DIR      # all themes on one page
    python -m experiments.gallery.norms             # one theme: tables printed, figures saved
"""

THEMES = (
    "perceptrons",
    "adaline",
    "activations",
    "forward_pass",
    "losses",
    "gradient_descent",
    "logistic_regression",
    "vectorisation",
    "numerical_gradient",
    "initialisation",
    "vanishing_gradient",
    "depth",
    "digits",
    "features",
    "applications",
    "convolution",
    "norms",
)
"""The names of the themes' modules, in the order of the page."""
