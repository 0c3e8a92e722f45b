"""Many devices: meshes, layouts of parameters over them, and what the devices tell each other."""

from jaxnn.kernels.parts import map_parts, on_each_part, split_batch, sum_parts, whole
from jaxnn.sharding.communication import Collective, collectives, sent_bytes
from jaxnn.sharding.examples import join_columns, own_columns, place_examples, take_examples
from jaxnn.sharding.factors import Sent, send_captures
from jaxnn.sharding.layouts import (
    LAYOUTS,
    Layout,
    find_layout,
    fully_sharded,
    replicated,
    tensor_parallel,
)
from jaxnn.sharding.mesh import (
    DATA,
    MODEL,
    STAGE,
    make_mesh,
    mesh_of,
    on_mesh,
    require_divisible,
)
from jaxnn.sharding.pipelines import (
    SCHEDULES,
    Costs,
    Simulation,
    Task,
    Ticks,
    gpipe,
    one_forward_one_backward,
    schedule,
    zero_bubble,
)
from jaxnn.sharding.pipelining import pipelined
from jaxnn.sharding.stages import Staged, balanced_cuts, is_staged, unstaged
