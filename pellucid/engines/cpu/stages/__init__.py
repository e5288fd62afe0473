"""The readouts as this engine reads them, one a file: host half and kernel half; stage.py says what they are."""
