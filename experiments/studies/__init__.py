"""Experiments that ask a question and draw the answer; each has a command at the root."""
