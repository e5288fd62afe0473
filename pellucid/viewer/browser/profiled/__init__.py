"""A profile of a corpus in the browser: what its page asks for, the page saved, and who serves it."""
