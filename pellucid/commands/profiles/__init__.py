"""The commands about profiles of a corpus."""
