"""What is read out of a profile: kinds with their confidence, two profiles compared, passages of text, other people's files."""
