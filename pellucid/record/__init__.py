"""What a watched run leaves: its layers and records, on disk, studied, and exported. Nothing here captures."""
