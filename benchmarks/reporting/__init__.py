"""The numbers shown: as a table, as JSON, as pictures."""
