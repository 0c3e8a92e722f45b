"""Functions as files of compiled code: they predict the same, and what is damaged is refused."""

import hashlib
import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_trees_all_close
from helpers import normal, started

import jaxnn as nn
from jaxnn import interop
from jaxnn.interop import exporting

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("flatbuffers") is None, reason="jax.export writes by flatbuffers"
)

NETWORKS = {
    "cnn": (
        nn.fuse(
            nn.serial(
                nn.conv(4, 3), nn.relu(), nn.max_pool(2), nn.batch_norm(), nn.flatten(), nn.dense(3)
            )
        ),
        normal(0, (5, 4, 4, 2), np.float32),
    ),
    "ids": (
        nn.serial(nn.embedding(7, 4), nn.transformer_block(4, 2), nn.lstm(2)),
        jnp.arange(15).reshape(5, 3) % 7,
    ),
    "a tuple": (
        nn.fork(nn.attention(2), nn.select(0)),
        (normal(1, (5, 3, 4), np.float32), normal(2, (5, 2, 6), np.float32)),
    ),
}


@pytest.fixture(scope="module")
def small():
    """A program and its bytes."""
    data = interop.export_function(lambda x: 2 * x, jnp.ones((4, 3)), facts={"by": "a test"})
    return interop.load_exported(data), data


@needs_library
@pytest.mark.parametrize("name", NETWORKS)
def test_a_program_predicts_what_the_network_does_for_any_number_of_examples(name):
    network, x = NETWORKS[name]
    params, state = started(network, x)
    program = interop.load_exported(interop.export_predict(network, params, state, x))
    for examples in (5, 1):
        some = jax.tree.map(lambda a, n=examples: a[:n], x)
        assert_trees_all_close(
            program(some), jax.jit(network.predict)(params, state, some), atol=1e-5
        )


@needs_library
def test_a_file_says_what_it_takes_where_it_runs_and_who_wrote_it(small):
    program, _ = small
    assert (program.inputs, program.outputs) == ("float32[b, 3]", "float32[b, 3]")
    assert program.platforms == ("cpu",) or jax.default_backend() != "cpu"
    assert program.versions["jax"] == jax.__version__
    assert program.facts == {"by": "a test"}
    assert "stablehlo.multiply" in program.exported.mlir_module()


@needs_library
def test_other_inputs_are_refused(small):
    program, _ = small
    for x in (jnp.ones((0, 3)), jnp.ones((2, 4)), jnp.ones((2, 3), int), (jnp.ones((2, 3)),)):
        with pytest.raises(
            ValueError, match=r"expected x to be float32\[b, 3\] with b of at least"
        ):
            program(x)


@needs_library
def test_a_program_in_float64_is_one_wherever_it_is_called():
    with jax.enable_x64(True):
        data = interop.export_function(lambda x: x + 1, jnp.ones((1, 2)))
    y = interop.load_exported(data)(np.full((3, 2), 1e10))
    assert y.dtype == np.float64
    np.testing.assert_array_equal(y, np.full((3, 2), 1e10 + 1))


@needs_library
def test_a_program_for_another_platform_is_not_run():
    data = interop.export_function(lambda x: x, jnp.ones((1, 2)), platforms=["tpu"])
    with pytest.raises(ValueError, match="expected one of its platforms, tpu, got"):
        interop.load_exported(data)(jnp.ones((1, 2)))


@needs_library
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x if x.shape[0] > 5 else 2 * x, "a function of any number of examples"),
        (lambda x: jnp.linalg.eigh(x[:, :, None] * x[:, None])[0], "got one that calls 'lapack"),
        (lambda x: jax.pure_callback(np.asarray, x, x), "a function of any number of examples"),
    ],
    ids=["compares", "library", "python"],
)
def test_what_is_no_program_of_its_own_is_not_written(function, message):
    with pytest.raises(ValueError, match=message):
        interop.export_function(function, jnp.ones((4, 2)))


@needs_library
def test_bad_arguments_are_refused(untyped):
    with pytest.raises(ValueError, match="unknown platform 'gpu'"):
        interop.export_function(lambda x: x, jnp.ones((1, 2)), platforms=["gpu"])
    with pytest.raises(ValueError, match="to have a batch axis"):
        interop.export_function(lambda x: x, jnp.ones(()))
    with pytest.raises(TypeError, match="expected network to be a Layer"):
        interop.export_predict(nn.dense, (), (), jnp.ones((1, 2)))


@needs_library
def test_a_damaged_file_is_one_line(small):
    _, data = small
    damaged = [data[:length] for length in range(0, len(data), 97)]
    damaged += [
        data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        for place in range(0, len(data), 97)
    ]
    for bad in damaged:
        with pytest.raises(ValueError, match="load_exported: expected ") as info:
            interop.load_exported(bad)
        assert "\n" not in str(info.value)


def sealed(rest):
    return exporting.MAGIC + hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest


@needs_library
def test_bytes_with_a_digest_that_are_no_program_are_one_line_too(small):
    _, data = small
    head, _, payload = data[len(exporting.MAGIC) + 65 :].partition(b"\n")
    header = json.loads(head)
    lie = json.dumps(header | {"inputs": ["float32[b, 4]"]}).encode()
    no_facts = json.dumps({n: v for n, v in header.items() if n != "facts"}).encode()
    noise = np.random.default_rng(0).bytes(300)
    rests = [b"", b"\n", b"[" * 100_000, head, head + b"\n" + noise, head + b"\n" + payload[:-200]]
    rests += [lie + b"\n" + payload, no_facts + b"\n" + payload, b"[]\n" + payload]
    for rest in rests:
        with pytest.raises(ValueError, match=r"expected a program that jax .* can read") as info:
            interop.load_exported(sealed(rest))
        assert "\n" not in str(info.value)


@needs_library
def test_a_program_that_calls_into_the_process_is_refused(monkeypatch):
    monkeypatch.setattr(exporting, "_require_pure", lambda where, exported: None)
    data = interop.export_function(
        lambda x: jnp.linalg.eigh(x[:, :, None] * x[:, None])[0], jnp.ones((4, 2))
    )
    monkeypatch.undo()
    with pytest.raises(ValueError, match="got one that calls 'lapack"):
        interop.load_exported(data)


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for call in (
        lambda: interop.load_exported(b""),
        lambda: interop.export_function(lambda x: x, jnp.ones((1, 2))),
    ):
        with pytest.raises(ImportError, match=r'pip install "jaxnn\[export\]"'):
            call()
