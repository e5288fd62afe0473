"""Numbers and tables made of a record's layers: heads summed up, alignments, segments, beams."""
