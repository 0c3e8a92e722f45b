"""Recurrent networks: `rnn`, `gru`, `lstm`, and two directions of one sequence."""

from jaxnn.recurrent.bidirectional import bidirectional
from jaxnn.recurrent.layers import gru, lstm, rnn
