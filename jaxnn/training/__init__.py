"""Training: pure steps and epochs, optimisers by name, and the loop around them."""

from jaxnn.losses.weighting import weighted_examples
from jaxnn.training.crosschecking import Crosscheck, Disagreement, compared
from jaxnn.training.delayed import delayed
from jaxnn.training.divergence import Diverged
from jaxnn.training.drawing import (
    Batches,
    Draw,
    Poisson,
    Shuffled,
    drawn,
    epoch_order,
    in_batches,
    make_epoch,
    make_poisson_epoch,
    poisson,
    shuffled,
)
from jaxnn.training.evaluation import make_predict, metrics_of, task_of
from jaxnn.training.folding import Folds, stack_folds, train_folds
from jaxnn.training.local_steps import local_steps
from jaxnn.training.loop import Epoch, train
from jaxnn.training.low_rank import Reduced, low_rank
from jaxnn.training.metrics import METRICS, Outcome, Undefined
from jaxnn.training.optimizers import OPTIMIZERS, make_optimizer, make_plateau
from jaxnn.training.placement import place
from jaxnn.training.schedules import SCHEDULES, make_schedule
from jaxnn.training.shuffling import shuffle
from jaxnn.training.staging import place_on_stages
from jaxnn.training.steps import (
    Step,
    TrainState,
    at_evaluation,
    create_state,
    make_step,
    steps_per_epoch,
    take_batches,
)
from jaxnn.training.streaming import Streamed, make_streamed_epoch, streamed
from jaxnn.training.sweeping import Trials, make_sweep
from jaxnn.training.updating import update_in_backward
