"""What is asked of JAX's own description of a function."""

from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

CALLS = {"jit", "pjit", "closed_call", "core_call", "remat2", "remat", "checkpoint"}
"""Equations that compute what the jaxpr inside of them says."""


def aval(atom: Any) -> Any:
    """The shape and dtype of a variable or a literal."""
    return atom.aval


def jaxpr_of(equation: JaxprEqn) -> Jaxpr:
    """The jaxpr inside of one of `CALLS`."""
    inner: Any = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    return inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner


def constants_of(equation: JaxprEqn) -> list:
    """The constants of that jaxpr."""
    inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    return inner.consts if isinstance(inner, ClosedJaxpr) else []


def scan_sizes(equation: JaxprEqn) -> tuple[int, int]:
    """How many operands of a scan are the same in all steps, and how many are carried on; those
    that follow are taken in slices. As many results are carried."""
    p = equation.params
    if "num_consts" in p:
        return p["num_consts"], p["num_carry"]
    # From JAX 0.12 on.
    constants, carried, _ = p["ft_in"].update(range(len(equation.invars))).unpack()
    return len(list(constants)), len(list(carried))
