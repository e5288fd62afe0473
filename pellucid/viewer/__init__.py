"""What a person sees: attention in a terminal, in a picture and step by step. It shows readings; it loads no model."""
