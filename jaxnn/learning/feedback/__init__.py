"""Learning rules other than backprop, as layers around layers.

The forward pass stays what it is; deltas travel back over other weights than those of the layer.
That takes no new backward pass: ``backward`` uses its parameters only to propagate, so it is called
with the feedback weights in their place. These lie in ``state``. A rule is put around every layer
inside of a network that has weights to propagate over:

    network = feedback_alignment(serial(dense(512), relu(), dense(10)))

`jaxnn.backprop` of such a network is the rule's update, and `jaxnn.autodiff`, which differentiates
the forward pass, the true gradient; `alignment_angles` compares them, and `delta_angles` the deltas
behind them. `jaxnn.plain` gives the network with the same params and state whose backward pass is
the true gradient, of which curvature is taken. A rule of one's own is a subclass of `Feedback`.
"""

from jaxnn.learning.feedback.angles import alignment_angles, angles_between, delta_angles
from jaxnn.learning.feedback.direct import direct_feedback_alignment
from jaxnn.learning.feedback.quantization import quantized
from jaxnn.learning.feedback.rules import (
    Feedback,
    FeedbackState,
    feedback_alignment,
    kolen_pollack,
    sign_concordant,
)
from jaxnn.learning.feedback.straight_through import straight_through
