"""Every line of every derivation follows, and the last ones are what the code computes."""

import dataclasses
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
from helpers import PUBLIC

import docs.derivations
import jaxnn as nn
from docs.derivations import linear
from docs.derivations.derivation import Chain, Code, Derivation
from docs.derivations.linear import W, delta, i, j, k, n
from docs.derivations.notation import as_written, total

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
    }


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_line_that_does_not_follow_is_found(mistake):
    with pytest.raises(ValueError, match=r"dense: .* (does not hold|sums over an index of)"):
        altered(0, equals=MISTAKES[mistake]).check()


def test_code_that_computes_something_else_is_found():
    computed = linear.dense.computed
    wrong = dataclasses.replace(
        linear.dense, computed=lambda **a: {key: -v for key, v in computed(**a).items()}
    )
    with pytest.raises(ValueError, match=r"dense: .* is not what the code computes"):
        wrong.check()


def test_code_that_has_moved_is_found():
    code = Code(linear.nn.dense.backward, "dy @ weight")
    with pytest.raises(ValueError, match=r"dense.backward: .*have 'dy @ weight' once, found it 0"):
        altered(0, code=code).check()
