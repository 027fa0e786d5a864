"""What the tests of pages and of SDKs share: the pages, the browser and each SDK's process, each started once."""

from pages import driver, origin, page
from sdks import client, processes

__all__ = ["client", "driver", "origin", "page", "processes"]
