"""What a kernel reads of the weights on the way, beside the output."""
