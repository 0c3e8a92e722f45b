"""The algorithms of a convolution's three passes, and the rule that chooses among them."""
