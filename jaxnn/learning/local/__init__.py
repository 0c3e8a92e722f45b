"""Learning rules without a backward pass from layer to layer.

A rule is a gradient function, (params, state, x, target, key=None, weights=None) -> ((value,
state), gradients), that any optimiser of optax takes. It sees a `serial` network as `Stage`s, one
for each layer with parameters; what a stage changes follows from what is next to it:

    rule = predictive_coding(serial(dense(512), tanh(), dense(10)), softmax_cross_entropy())
    step = make_step(rule, optax.adam(1e-3))

``rule.objective`` is the function whose gradient its update stands for, and `objective_angles`
compares the two; ``rule.predict`` is what the trained network says, which for some rules is not the
forward pass.
"""

from jaxnn.learning.local.equilibrium import equilibrium_propagation
from jaxnn.learning.local.forward_forward import forward_forward
from jaxnn.learning.local.pepita import pepita
from jaxnn.learning.local.predictive_coding import predictive_coding
from jaxnn.learning.local.rule import Rule, objective_angles
