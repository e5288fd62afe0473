"""A model run over a corpus: blocks of documents, batches by length, and what is kept on disk meanwhile."""
