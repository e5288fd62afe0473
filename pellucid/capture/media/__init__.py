"""What a watched model looks at and listens to: where the patches of pictures and the frames of sound stand."""
