"""Every line of every derivation follows, and the last ones are what the code computes."""

import dataclasses
import importlib
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import PUBLIC

import docs.derivations
import jaxnn as nn
from docs.derivations import linear
from docs.derivations.derivation import Chain, Code, Derivation, Step
from docs.derivations.linear import W, delta, i, j, k, m, n
from docs.derivations.notation import array, as_written, index, total

MODULES = {
    module.name: importlib.import_module(f"docs.derivations.{module.name}")
    for module in pkgutil.iter_modules(docs.derivations.__path__)
}
DERIVATIONS = {
    f"{module}.{name}": derivation
    for module, found in MODULES.items()
    for name, derivation in vars(found).items()
    if isinstance(derivation, Derivation)
}
CHAPTERS = sorted(Path(docs.derivations.__path__[0]).parent.glob("chapters/*.md"))


WITHOUT = {
    "a base of others": ("Layer", "Loss", "ParameterFree", "Pointwise"),
    "put together from others": ("bidirectional", "feed_forward", "transformer_block"),
    "serial, whose heads learn elsewhere": ("auxiliary_heads",),
    "x itself, or a part of it that is put where it was": (
        "center_crop",
        "on",
        "parallel",
        "pixel_unshuffle",
        "random_crop",
        "random_flip",
        "random_shift",
        "reshape",
        "select",
    ),
    "others computed together": ("conv_relu_max_pool",),
    "convolutions with kernels that are constants, whose modulus its docstring derives": (
        "scattering",
    ),
    "derived with its loss": ("projection", "projection_at_rest"),
    "another way to the gradient of what stands inside": (
        "compress",
        "low_precision_deltas",
        "recompute",
        "reversible",
        "sampled",
        "with_precision",
    ),
    "a rule in place of the gradient": (
        "direct_feedback_alignment",
        "feedback_alignment",
        "kolen_pollack",
        "quantized",
        "sign_concordant",
        "straight_through",
    ),
}
"""Layers and losses that need no derivation of their own, and why."""


def test_every_layer_and_loss_has_a_derivation_or_a_reason_why_not():
    of_passes = {
        name
        for name, value in PUBLIC.items()
        if isinstance(value, type) and issubclass(value, nn.Layer | nn.Loss)
    }
    derived = {derivation.title for derivation in DERIVATIONS.values()}
    excused = {name for names in WITHOUT.values() for name in names}
    assert excused <= of_passes <= derived | excused
    assert not derived & excused


@pytest.mark.parametrize("name", DERIVATIONS)
def test_every_line_follows_and_the_last_is_what_the_code_computes(name):
    assert DERIVATIONS[name].check() > 0


def test_every_derivation_stands_in_a_chapter():
    pages = "".join(path.read_text(encoding="utf-8") for path in CHAPTERS)
    assert sorted(re.findall(r"```\{derivation\} (\S+)", pages)) == sorted(DERIVATIONS)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_what_a_chapter_shows_of_the_source_stands_there(path):
    for name in re.findall(r"```\{source\} (\S+)", path.read_text(encoding="utf-8")):
        pkgutil.resolve_name(name)


def altered(chain, **changes):
    """The derivation of dense, one of whose last lines says something else."""
    chains = list(linear.dense.chains)
    steps = chains[chain].steps
    last = dataclasses.replace(steps[-1], **changes)
    chains[chain] = Chain(chains[chain].of, *steps[:-1], last)
    return dataclasses.replace(linear.dense, chains=tuple(chains))


with as_written():
    MISTAKES = {
        "a sign": total(-delta[n, j] * W[i, j], j),
        "a transpose": total(delta[n, j] * W[i, k], j, k),
        "a factor": total(2 * delta[n, j] * W[i, j], j),
        "an index that is free as well": total(delta[n, j] * W[i, j], j, n),
        "an index that is summed over as well": total(delta[n, j] * total(W[i, j], j), j),
        "no number": total(delta[n, j] * W[i, j] / (n - n), j),
        "one letter for two arrays": total(delta[n, j] * array("W", 4, 4)[i, j], j),
        "one letter for two indices": total(delta[n, k] * W[i, k], k).subs(k, index("j", 3)),
        "the line before": linear.dense.chains[0].steps[-2].equals,
    }


FOUND = "does not hold|sums over an index of|stands for two things|is given as its own reason"


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_line_that_does_not_follow_is_found(mistake):
    with pytest.raises(ValueError, match=f"dense: .* ({FOUND})"):
        altered(0, equals=MISTAKES[mistake]).check()


def test_code_that_computes_something_else_is_found():
    computed = linear.dense.computed
    wrong = dataclasses.replace(
        linear.dense, computed=lambda **a: {key: -v for key, v in computed(**a).items()}
    )
    with pytest.raises(ValueError, match=r"dense: .* is not what the code computes"):
        wrong.check()


def test_code_that_computes_another_number_of_elements_is_found():
    computed = linear.dense.computed
    wrong = dataclasses.replace(
        linear.dense, computed=lambda **a: {key: v[:1] for key, v in computed(**a).items()}
    )
    with pytest.raises(
        ValueError, match=r"dense: expected .* to have the shape \(2, 2\), got \(1, 2"
    ):
        wrong.check()


def test_code_that_computes_no_number_is_found():
    computed = linear.dense.computed
    wrong = dataclasses.replace(
        linear.dense,
        computed=lambda **a: {key: np.asarray(v) * np.nan for key, v in computed(**a).items()},
    )
    with pytest.raises(ValueError, match=r"dense: .* is not what the code computes"):
        wrong.check()


@pytest.mark.parametrize("left", [linear.y[n, j], linear.dx, linear.dW], ids=("y", "dx", "dW"))
def test_what_leaves_the_layer_and_the_derivatives_by_what_is_given_have_to_be_computed(left):
    computed = linear.dense.computed
    less = dataclasses.replace(
        linear.dense, computed=lambda **a: {k: v for k, v in computed(**a).items() if k != left}
    )
    with pytest.raises(ValueError, match=r"dense: expected `computed` to have .* too"):
        less.check()


def test_a_definition_on_which_nothing_depends_is_found():
    more = (*linear.dense.forward, (array("a", j)[j], Step(linear.b[j])))
    with pytest.raises(ValueError, match=r"dense: nothing depends on what is defined as \{a\[j\]"):
        dataclasses.replace(linear.dense, forward=more).check()


def test_what_is_defined_twice_is_found():
    twice = (*linear.dense.forward, (linear.y[m, k], Step(linear.b[k])))
    with pytest.raises(ValueError, match=r"dense: y at \(0, 0\) is defined 2 times"):
        dataclasses.replace(linear.dense, forward=twice).check()


def test_code_that_has_moved_is_found():
    code = Code(linear.nn.dense.backward, "dy @ weight")
    with pytest.raises(ValueError, match=r"dense.backward: .*have 'dy @ weight' once, found it 0"):
        altered(0, code=code).check()


def test_a_docstring_is_no_code():
    docstring = nn.dense.__doc__ or ""
    with pytest.raises(ValueError, match="once, found it 0 times"):
        Code(nn.dense, docstring[:20]).place()
