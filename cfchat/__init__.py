"""A chat back end for Cloudflare Workers AI, in the standard library alone.

What a program needs that embeds it is here, each name with an example; `cfchat.errors` has all errors.
"""

from __future__ import annotations

from importlib import import_module

from cfchat.errors import CfchatError, ConfigError

TYPE_CHECKING = False  # type checkers take it for the one of typing, whose import would take longer than all this
if TYPE_CHECKING:
    from cfchat.api import Serving, chat, serve, stream_chat
    from cfchat.app.hooks import Hooks, Reply
    from cfchat.asgi3 import asgi
    from cfchat.conversation.images import Image
    from cfchat.conversation.model import Conversation, Message, Options
    from cfchat.server.request import Request
    from cfchat.settings.config import Config
    from cfchat.settings.load import load_config

__version__ = "0.1.0"

__all__ = [
    "CfchatError",
    "Config",
    "ConfigError",
    "Conversation",
    "Hooks",
    "Image",
    "Message",
    "Options",
    "Reply",
    "Request",
    "Serving",
    "__version__",
    "asgi",
    "chat",
    "load_config",
    "serve",
    "stream_chat",
]

# Imported when they are first asked for, so that what needs one name does not pay for all.
_ROOMS = {
    "api": ("Serving", "chat", "serve", "stream_chat"),
    "asgi3": ("asgi",),
    "settings.config": ("Config",),
    "settings.load": ("load_config",),
    "conversation.images": ("Image",),
    "conversation.model": ("Conversation", "Message", "Options"),
    "app.hooks": ("Hooks", "Reply"),
    "server.request": ("Request",),
}


def __getattr__(name: str) -> object:
    room = next((room for room, names in _ROOMS.items() if name in names), None)
    if room is None:
        raise AttributeError(f"module 'cfchat' has no attribute {name!r}")
    return globals().setdefault(name, getattr(import_module(f"cfchat.{room}"), name))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})  # for help()
