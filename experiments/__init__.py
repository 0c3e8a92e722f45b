"""Runnable scripts: `python -m experiments.NAME`. Nothing in jaxnn imports them."""
