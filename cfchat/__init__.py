"""A chat back end for Cloudflare Workers AI, in the standard library alone."""

from cfchat.errors import CfchatError

__version__ = "0.1.0"

__all__ = ["CfchatError", "__version__"]
