"""One call of attention, whoever makes it: what it asks for, and how it is read."""
