"""The documents of a corpus, one after another: folders, text, JSON Lines and Parquet."""
