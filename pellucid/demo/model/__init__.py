"""The model that reads dates: its tokens, its layers, what it gives of a text, and its weights, trained."""
