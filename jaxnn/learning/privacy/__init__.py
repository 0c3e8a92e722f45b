"""Private training: clipped, noisy gradients (DP-SGD), Poisson sampling, and the budget they cost.

A training whose every step sees a Poisson sample of the examples, clips each example's gradient to
a norm and adds Gaussian noise is (ε, δ)-differentially private: whatever is concluded from the
trained parameters would have been concluded, up to a factor e^ε in probability and but for a
probability δ, had any single example not been among the data (Abadi et al., 2016).
"""

from jaxnn.learning.privacy.accounting import (
    epsilon_spent,
    noise_multiplier_for,
    require_accounting,
)
from jaxnn.learning.privacy.auditing import Audit, audit, audit_p_value
from jaxnn.learning.privacy.changing import adaptive, scheduled
from jaxnn.learning.privacy.gradient import Privacy, clipped_sum, private
from jaxnn.learning.privacy.sampling import capacity_of, poisson_batches
