"""``python -m jaxnn_command`` is the command ``jaxnn``, where that is not on the path."""

from jaxnn_command import main

main()
