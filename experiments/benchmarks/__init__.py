"""Measurements: each prints its whole sweep, ratios inside one run, worst case included."""
