"""The privacy budget: ε for a δ, by Google's dp-accounting (the extra ``privacy``).

Privacy loss distributions (Koskela et al., 2020) of the Poisson-subsampled Gaussian mechanism,
composed over all steps; two data sets are neighbours if one has one example more.
"""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

from jaxnn.core.validation import require_integer, require_number, require_positive_integer
from jaxnn.core.value import checked
from jaxnn.learning.privacy.gradient import Privacy, require_one, require_probability
from jaxnn.learning.privacy.sampling import capacity_of


def epsilon_spent(
    privacy: Privacy,
    *,
    examples: int,
    batch_size: int,
    steps: int,
    noise_schedule: Callable[[int], Any] | None = None,
) -> float:
    """ε after so many steps of `private` on Poisson samples, for the δ of ``privacy``.

    Args:
        privacy: The noise multiplier and δ.
        examples: The size of the training set.
        batch_size: The expected size of a sample.
        steps: How many have been taken.
        noise_schedule: The number of a step -> its noise multiplier, in place of the one of
            ``privacy``, as `scheduled` takes it. The order of steps does not matter; the time that
            it takes grows with the number of different multipliers.

    Without noise, where that is allowed, it is infinite. Of `adaptive` it is the same: its
    ``noise_multiplier`` stands for the counts too.

    Raises:
        ImportError: dp-accounting is not installed; says how to install it.
        ValueError: a number is out of its range.
    """
    privacy.require_valid()
    capacity_of(examples, batch_size)  # refuses sizes that cannot be
    require_integer("epsilon_spent", "steps", steps, 0)
    if steps == 0:
        return 0.0
    multipliers = Counter({privacy.noise_multiplier: steps})
    if noise_schedule is not None:
        schedule = checked("epsilon_spent", "noise_schedule", noise_schedule, Callable)

        def noise(step: int) -> float:
            zero = privacy.allow_no_noise
            return float(
                require_one("epsilon_spent", "noise_multiplier", schedule(step), zero=zero)
            )

        multipliers = Counter(map(noise, range(steps)))
    if 0 in multipliers:
        return math.inf
    library = require_accounting()
    accountant = library.pld.PLDAccountant()
    for multiplier, count in multipliers.items():
        accountant.compose(_steps(library, multiplier, batch_size / examples, count))
    return float(accountant.get_epsilon(privacy.delta))


def noise_multiplier_for(
    epsilon: float, delta: float, *, examples: int, batch_size: int, steps: int
) -> float:
    """The least noise multiplier, to within 1e-3, with which so many steps cost at most ε for δ.

    Raises:
        ImportError, ValueError: as `epsilon_spent`.
    """
    require_number("noise_multiplier_for", "epsilon", epsilon, minimum=0, open_minimum=True)
    require_probability("noise_multiplier_for", "delta", delta)
    capacity_of(examples, batch_size)
    require_positive_integer("noise_multiplier_for", "steps", steps)
    library = require_accounting()

    def least(accountant: Any, bracket: Any) -> float:
        def event(noise: float):
            return _steps(library, noise, batch_size / examples, steps)

        search = library.mechanism_calibration
        return search.calibrate_dp_mechanism(accountant, event, epsilon, delta, bracket, tol=1e-3)

    interval = library.mechanism_calibration.LowerEndpointAndGuess
    # Rényi's bound is quick and a little too high: the slow search begins next to it.
    orders = range(2, 65)
    enough = least(lambda: library.rdp.RdpAccountant(orders), interval(0.05, 1.0))
    return float(least(library.pld.PLDAccountant, interval(enough / 2, enough)))


def _steps(library: Any, noise_multiplier: float, probability: float, steps: int) -> Any:
    """The privacy event of all steps together."""
    noise = library.GaussianDpEvent(noise_multiplier)
    one = library.PoissonSampledDpEvent(probability, noise)
    return library.SelfComposedDpEvent(one, steps)


def require_accounting() -> Any:
    """The library; raises ImportError, with what to install, where it is absent."""
    try:
        import dp_accounting
        import dp_accounting.pld
        import dp_accounting.rdp
    except ImportError as error:
        raise ImportError(
            "the privacy budget needs the package dp-accounting: pip install 'jaxnn[privacy]'"
        ) from error
    return dp_accounting
