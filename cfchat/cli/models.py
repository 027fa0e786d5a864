"""List the account's text models with their windows and prices (`cfchat models`)."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from cfchat import api
from cfchat.cli.terminal import FAILED, OK, say_error, show
from cfchat.errors import UpstreamError
from cfchat.settings.config import Config
from cfchat.upstream.cloudflare.catalogue import Model


async def list_models(config: Config, as_json: bool) -> int:
    """Print the account's text models, by name. Return the exit code."""
    settings = config.upstream
    assert settings is not None
    async with api.open_upstream(config) as upstream:
        try:
            models = sorted(await upstream.catalogue(), key=lambda model: model.name)
        except UpstreamError as error:
            say_error(error, settings)
            return FAILED
    if as_json:
        print(json.dumps([model._asdict() for model in models], indent=2))
    else:
        _print_table(models, settings.models)
    return OK


def _print_table(models: Sequence[Model], configured: Sequence[str]) -> None:
    """Print a line for each model. Prices are US$ for a million tokens in and out; `-` is a number that is missing."""
    rows = [("MODEL", "WINDOW", "$/M IN", "$/M OUT", "NOTES")]
    for model in models:
        window = "-" if model.window is None else f"{model.window:,}"
        rows.append((model.name, window, _price(model.price_in), _price(model.price_out), _notes(model, configured)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for name, *numbers, notes in rows:
        columns = [f"{number:>{width}}" for number, width in zip(numbers, widths[1:], strict=True)]
        show("  ".join([f"{name:<{widths[0]}}", *columns, notes]).rstrip())


def _price(price: float | None) -> str:
    return "-" if price is None else f"{price:.3f}"


def _notes(model: Model, configured: Sequence[str]) -> str:
    notes = []
    if model.name in configured:
        notes.append("your default" if model.name == configured[0] else "your fallback")
    if removal := model.removal(time.time()):
        notes.append(removal)
    if model.paid:
        notes.append("paid plan only")
    if model.reasoning:
        notes.append("reasoning")
    if model.vision:
        notes.append("images")
    return ", ".join(notes)
