import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import PUBLIC, assert_agree, normal, passes, started

import jaxnn as nn

LENGTHS = jnp.array([2, 3])


def given(memory, mask):
    """x of a block with a memory and a mask, as they are asked for."""
    x = (normal(0, (2, 3, 4)), *([normal(1, (2, 3, 5))] if memory else []))
    x = (*x, LENGTHS) if mask else x
    return x if len(x) > 1 else x[0]


def check(network, x):
    """The gradients of a network against autodiff, in one program."""
    params, state = started(network, x)
    dy = normal(2, (2, 3, 4))

    @jax.jit
    def both(params, x):
        y, vjp = jax.vjp(lambda params: network.forward(params, state, x, None)[0], params)
        y_by_hand, _, gradients = passes(network, params, state, x, dy)
        return (y_by_hand, gradients), (y, *vjp(dy))

    assert_agree(*both(params, x), 1e-10)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("mask", [True, False])
def test_the_gradient_of_a_block_agrees_with_autodiff(memory, mask, norm_first):
    block = nn.transformer_block(
        4, 2, hidden=6, memory=memory, mask=mask, norm_first=norm_first, causal=True, rotary=True
    )
    network = nn.serial(block, nn.select(0)) if memory or mask else block
    with jax.enable_x64(True):
        x = given(memory, mask)
        check(network, x)


def test_a_block_takes_an_attention_with_all_its_options():
    attend = nn.attention(
        2, causal=True, alibi=True, relative=2, softcap=3.0, rotary=True, rotary_features=2, depth=4
    )
    block = nn.transformer_block(4, attention=attend, hidden=6, memory=True)
    own, of_memory = (layer for _, layer in nn.walk(block) if isinstance(layer, nn.attention))
    assert own == attend
    assert of_memory == nn.attention(2, softcap=3.0, depth=4)
    assert eval(repr(block), dict(PUBLIC)) == block
    assert nn.in_inference_mode(block).attention == attend
    with jax.enable_x64(True):
        check(nn.serial(block, nn.select(0)), given(True, False))


def test_a_block_of_heads_is_that_of_an_attention_with_as_many():
    by_heads = nn.transformer_block(4, 2, causal=True, rotary=True, groups=1)
    given = nn.transformer_block(4, attention=nn.attention(2, causal=True, rotary=True, groups=1))
    assert given.made == by_heads.made


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected heads or attention, got neither"),
        ({"heads": 2, "causal": True}, "expected attention in place of heads, causal, got both"),
    ],
)
def test_a_block_is_told_its_attention_once(options, message):
    if options:
        options |= {"attention": nn.attention(2)}
    with pytest.raises(ValueError, match=f"transformer_block: {message}"):
        nn.transformer_block(4, **options)


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_block_is_its_residual_connections_one_after_the_other(norm_first, x64):
    x = normal(0, (2, 3, 4))
    block = nn.transformer_block(4, 2, norm="rms_norm", norm_first=norm_first)
    params, block_state = started(block, x)
    functions, norm = (nn.attention(2), nn.feed_forward(4)), nn.rms_norm()
    leaves = {name: [] for name in ("norm", "function")}
    for _, layer, p in nn.walk(block, params):
        if layer.name in ("rms_norm", "attention") or p:
            leaves["norm" if layer.name == "rms_norm" else "function"].append(p)
    attend, first, second = leaves["function"]

    @jax.jit
    def both(x):
        y = block.predict(params, block_state, x)
        for f, p, scale in zip(
            functions, (attend, (first, (), second)), leaves["norm"], strict=True
        ):
            state = f.init(jax.random.key(0), x)[1]
            if norm_first:
                x = x + f.predict(p, state, norm.predict(scale, (), x))
            else:
                x = norm.predict(scale, (), x + f.predict(p, state, x))
        return y, x

    assert_agree(*both(x), 1e-12)


def test_a_block_without_biases_has_none_and_agrees_with_autodiff(x64):
    x = normal(0, (2, 3, 4))
    for options in ({}, {"norm": nn.rms_norm(1e-3), "activation": nn.swiglu()}):
        block = nn.transformer_block(4, 2, hidden=6, use_bias=False, causal=True, **options)
        params, _ = jax.eval_shape(block.init, jax.random.key(0), x)
        names = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(params)}
        assert "bias" not in str(names)
        assert "offset" not in names
        check(block, x)


def test_the_norm_may_be_any_layer():
    layers = [layer for _, layer in nn.walk(nn.transformer_block(4, 2, norm=nn.normalize()))]
    assert layers.count(nn.normalize()) == 2
    by_layer = nn.transformer_block(4, 2, norm=nn.layer_norm())
    assert by_layer.made == nn.transformer_block(4, 2).made


def test_a_gated_activation_halves_what_lies_in_between():
    network = nn.feed_forward(4, 6, activation=nn.swiglu(), use_bias=False)
    x = normal(0, (2, 4))
    params, state = started(network, x)
    first, second = (p["weight"] for _, _, p in nn.walk(network, params) if p)
    assert (first.shape, second.shape) == ((4, 6), (3, 4))
    a, b = jnp.split(x @ first, 2, -1)
    assert_agree(network.predict(params, state, x), (a * jax.nn.silu(b)) @ second, 1e-6)


def test_blocks_can_be_stacked_by_repeat_with_memory_and_mask():
    network = nn.serial(
        nn.repeat(nn.transformer_block(4, 2, hidden=3, memory=True, mask=True, causal=True), 2),
        nn.select(0),
    )
    with jax.enable_x64(True):
        x = (normal(0, (2, 3, 4)), normal(1, (2, 5, 4)), LENGTHS)
        check(network, x)


def test_the_members_behind_x_pass_through():
    block = nn.transformer_block(4, 2, memory=True, mask=True)
    x = given(True, True)
    params, state = started(block, x)
    y = jax.jit(block.predict)(params, state, x)
    assert y[0].shape == x[0].shape
    np.testing.assert_array_equal(y[1], x[1])
    np.testing.assert_array_equal(y[2], x[2])


def test_what_the_mask_hides_does_not_matter():
    block = nn.transformer_block(4, 2, mask=True)
    x = normal(0, (2, 3, 4))
    params, state = started(block, (x, LENGTHS))
    padding = np.arange(3)[:, None] >= np.asarray(LENGTHS)[:, None, None]
    spoilt = np.where(padding, np.float32(9), x)
    y, other = (jax.jit(block.predict)(params, state, (a, LENGTHS))[0] for a in (x, spoilt))
    assert_agree(np.where(padding, 0, other), np.where(padding, 0, y), 1e-6)


def test_dropout_is_drawn_in_training_alone():
    block = nn.transformer_block(4, 2, dropout=0.5)
    x = normal(0, (2, 3, 4))
    params, state = started(block, x)
    y = jax.jit(block.predict)(params, state, x)
    noisy = jax.jit(block.forward)(params, state, x, jax.random.key(0))[0]
    assert np.abs(np.asarray(noisy) - np.asarray(y)).max() > 0.01
    with pytest.raises(ValueError, match="expected key to be a random key"):
        block.forward(params, state, x, None)


def test_a_block_takes_no_place_of_its_own_in_paths():
    block = nn.transformer_block(4, 2)
    own = [path for path, _ in nn.walk(nn.serial(nn.dense(4), block))]
    made = [path for path, _ in nn.walk(nn.serial(nn.dense(4), block.parts[0]))]
    assert own == made


def test_what_the_layers_of_a_block_refuse_is_refused_when_it_is_made(untyped):
    for wrong, message in (
        ({"groups": 3}, "attention: expected groups"),
        ({"causal": "yes"}, "transformer_block: expected causal to be True or False"),
        ({"activation": nn.relu}, "expected activation to be a Layer.*a factory: call it"),
        ({"heads": True}, "transformer_block: expected heads to be an integer, got True"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            nn.transformer_block(**{"features": 4, "heads": 2} | wrong)


def test_select_keeps_the_laws_and_names_what_it_lacks():
    x = (normal(0, (2, 3)), normal(1, (2, 4)), jnp.array([1, 2]))
    nn.check_layer(nn.select(0), x).require()
    nn.check_layer(nn.select(2, 1), x).require()
    y, _, residuals = nn.select(0, 2).forward((), (), x, None)
    assert y == (x[0], x[2])
    dx, _ = nn.select(0, 2).backward((), residuals, (x[0], None))
    np.testing.assert_array_equal(dx[1], np.zeros((2, 4)))
    assert dx[2] is None
    with pytest.raises(ValueError, match=r"select: expected indices below 3.*got \(0, 3\)"):
        nn.select(0, 3).predict((), (), x)
    with pytest.raises(TypeError, match="select: expected x to be a tuple"):
        nn.select(0).predict((), (), x[0])
    for indices in [(), (1, 1), (-1,)]:
        with pytest.raises(ValueError, match="select: expected"):
            nn.select(*indices)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.transformer_block(0, 1), "transformer_block: expected features"),
        (lambda: nn.transformer_block(4, 2, norm="rms"), "unknown norm 'rms': did you mean"),
        (lambda: nn.transformer_block(4, 2, dropout=1.5), "expected dropout to lie in"),
        (lambda: nn.feed_forward(4, 0), "feed_forward: expected hidden to be at least 1"),
        (
            lambda: nn.transformer_block(4, 3).init(jax.random.key(0), jnp.ones((1, 2, 4))),
            "attention: expected heads to divide the 4 features",
        ),
    ],
)
def test_wrong_arguments_are_refused(make, message, untyped):
    with pytest.raises(ValueError, match=message):
        make()
