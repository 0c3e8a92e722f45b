"""Recurrent networks: `rnn`, `gru`, `lstm`, and two directions of one sequence."""

from jaxnn.layers.recurrent.bidirectional import bidirectional
from jaxnn.layers.recurrent.layers import gru, lstm, rnn
