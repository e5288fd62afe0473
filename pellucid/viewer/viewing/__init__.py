"""From Python to the page: `pellucid.view` of a record, an observation or weights, in a notebook or from a script."""
