"""The losses, one file for each family; all are names of `jaxnn` itself."""
