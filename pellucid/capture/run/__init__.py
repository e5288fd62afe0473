"""One watched run: where its calls stand, which layer each continues, and the record that they go into."""
