"""What the tests of pages share: the pages and the browser, each started once."""

from pages import driver, origin, page

__all__ = ["driver", "origin", "page"]
