"""A function run by its plan: its result, and at each use what the data were.

A number that is 0 is added to the output of each use; the derivative by it is the delta there.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from jaxnn.interop.following import Findings, Plan, Use
from jaxnn.interop.jaxprs import constants_of, scan_sizes
from jaxnn.interop.substitutes import substitute


def added(findings: Findings) -> dict[int, jax.ShapeDtypeStruct]:
    """Of each use that has deltas of its own: the shape and dtype of what is added, scans first."""
    return {
        number: jax.ShapeDtypeStruct(
            (*(scan.length for scan in use.scans), *use.output.shape), use.output.dtype
        )
        for number, use in enumerate(findings.uses)
        if use.source is None
    }


def run(
    closed: ClosedJaxpr, findings: Findings, arguments: list, zeros: dict[int, Array]
) -> tuple[list, dict[int, Array]]:
    """(results, the data that each use met, by its number).

    ``zeros`` are those of `added`.
    """
    return _Run(findings.uses).jaxpr(findings.plan, closed.consts, arguments, zeros)


class _Run:
    def __init__(self, uses: list[Use]):
        self.uses = uses

    def jaxpr(
        self, plan: Plan, consts: Any, arguments: list, zeros: dict[int, Array]
    ) -> tuple[list, dict[int, Array]]:
        variables = (*plan.jaxpr.constvars, *plan.jaxpr.invars)
        env = dict(zip(variables, (*consts, *arguments), strict=True))
        met: dict[int, Array] = {}

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, Literal) else env[atom]

        for index, equation in enumerate(plan.jaxpr.eqns):
            inputs = [read(v) for v in equation.invars]
            if index in plan.inner:
                own = {n: zeros[n] for p in plan.inner[index] for n in p.numbers() if n in zeros}
                outputs, seen = self._inner(equation, plan.inner[index], inputs, own)
                met |= seen
            elif (faster := substitute(equation)) is not None:
                outputs = [faster(*inputs)]
            else:
                p = equation.primitive.get_bind_params(equation.params)
                outputs = equation.primitive.bind(*inputs, **p)
                if not equation.primitive.multiple_results:
                    outputs = [outputs]
            if index in plan.uses:
                number = plan.uses[index]
                use = self.uses[number]
                if use.data is not None:
                    met[number] = read(use.data)
                if number in zeros:
                    outputs = [outputs[0] + zeros[number]]
            env.update(zip(equation.outvars, outputs, strict=True))
        return [read(v) for v in plan.jaxpr.outvars], met

    def _inner(
        self, equation: JaxprEqn, plans: tuple[Plan, ...], inputs: list, zeros: dict[int, Array]
    ) -> tuple[list, dict[int, Array]]:
        match equation.primitive.name:
            case "scan":
                return self._scan(equation, plans[0], inputs, zeros)
            case "cond":
                return self._branches(equation, plans, inputs, zeros)
            case "remat2" | "remat" | "checkpoint":
                options = {name: equation.params[name] for name in ("prevent_cse", "policy")}

                def recomputed(inputs: list, zeros: dict):
                    return self.jaxpr(plans[0], (), inputs, zeros)

                return jax.checkpoint(recomputed, **options)(inputs, zeros)
        return self.jaxpr(plans[0], constants_of(equation), inputs, zeros)

    def _scan(self, equation: JaxprEqn, plan: Plan, inputs: list, zeros: dict[int, Array]):
        p = equation.params
        consts, carries = scan_sizes(equation)
        fixed, carry, xs = (
            inputs[:consts],
            inputs[consts : consts + carries],
            inputs[consts + carries :],
        )

        def step(carry: list, own: tuple[list, dict]):
            outputs, met = self.jaxpr(plan, p["jaxpr"].consts, [*fixed, *carry, *own[0]], own[1])
            return outputs[:carries], (outputs[carries:], met)

        options = {name: p[name] for name in ("length", "reverse", "unroll")}
        carry, (ys, met) = jax.lax.scan(step, carry, (xs, zeros), **options)
        return [*carry, *ys], met

    def _branches(self, equation: JaxprEqn, plans: tuple, inputs: list, zeros: dict[int, Array]):
        branches = equation.params["branches"]

        def of(index: int):
            def branch(operands: list, zeros: dict[int, Array]):
                return self.jaxpr(plans[index], branches[index].consts, operands, zeros)

            return branch

        shapes = [jax.eval_shape(of(i), inputs[1:], zeros)[1] for i in range(len(plans))]
        everything = {number: shape for met in shapes for number, shape in met.items()}

        def filled(index: int):
            def branch(operands: list, zeros: dict[int, Array]):
                outputs, met = of(index)(operands, zeros)
                rest = {n: jnp.zeros(s.shape, s.dtype) for n, s in everything.items()}
                return outputs, rest | met

            return branch

        which, *operands = inputs
        options = [filled(i) for i in range(len(plans))]
        return jax.lax.switch(which, options, operands, zeros)
