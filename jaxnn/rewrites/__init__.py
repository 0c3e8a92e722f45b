"""What turns a network into another one with the same parameters."""
