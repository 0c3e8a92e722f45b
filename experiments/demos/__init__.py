"""Applications on data of their own making; each has a command at the root."""
