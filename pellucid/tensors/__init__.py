"""What torch asks of whoever takes its tensors: memory cut short, transforms, numbers that are symbols, positions."""
