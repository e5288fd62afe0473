"""How a piece of work becomes numbers: checked, timed in turns, in processes of its own where it must be."""
