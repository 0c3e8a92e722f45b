"""Weights in and out: files of them, and those of other libraries."""
