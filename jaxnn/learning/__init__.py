"""What is done with gradients and captures to learn: accumulation, privacy, preconditioning,
and rules other than backprop."""
