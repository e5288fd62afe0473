"""A record in a browser or a notebook: what the page asks for, and who serves it.

`answers` answers a path and a query; the server, the widget and the saved page are shells around it. docs/viewer.md
describes what may be asked.
"""

from pellucid.viewer.browser.serve import show

__all__ = ["show"]
