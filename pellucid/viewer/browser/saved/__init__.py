"""A page that opens from disk: what its views would ask for is asked when it is saved, and lies in it."""

from pellucid.viewer.browser.saved.page import MAX_BYTES, Window, save

__all__ = ["MAX_BYTES", "Window", "save"]
