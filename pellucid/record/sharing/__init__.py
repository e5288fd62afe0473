"""Records of a model that lies on several ranks: which part a rank has, and the parts as one, in memory and on disk."""
