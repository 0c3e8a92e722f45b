"""The layers, one file or folder for each family; all are names of `jaxnn` itself."""
