"""Every model class of the installed transformers, built small, and compared with itself under watch and accelerate.

`python -m tests.sweep --all --json out.json` goes through all of them, the tests through a
quarter of a fixed tenth, or with PELLUCID_TEST_EFFORT=4 all of it.
"""
