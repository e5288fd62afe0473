"""What is read out of a profile: kinds with their confidence, two compared, passages of text, files for others."""
