"""Records on disk: a folder `name.attn/` with a manifest and a file a layer."""
