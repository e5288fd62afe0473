"""The score language in compiled code: the user's functions over a vector of places, and their bounds over a tile."""
