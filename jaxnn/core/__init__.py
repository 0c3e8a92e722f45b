"""What everything else is made of: layers, losses, captures, combinators, gradients, checks."""
