"""Five lessons: what attention does in trained models, each a record and a few steps through it."""
