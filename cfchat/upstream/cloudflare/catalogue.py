"""Read the list of an account's text models. Pure.

GET models/search answers with one page that holds models of all tasks. Properties come as pairs of a name and a value,
and numbers and booleans as strings. A property that cannot be read is left out, and so is a model whose name is none.
A body that is no list is an error.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from cfchat.errors import UpstreamProtocolError
from cfchat.upstream.cloudflare.faults import text_of
from cfchat.upstream.cloudflare.models import is_model_name

_TOKENS = re.compile(r"[0-9]{1,9}")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class Model(NamedTuple):
    """A model of the list. `window` is in tokens, prices are in US$ for a million tokens of input and of output."""

    name: str
    window: int | None = None
    price_in: float | None = None
    price_out: float | None = None
    deprecation: str = ""  # the planned day of its removal, YYYY-MM-DD
    paid: bool = False  # only on the Workers Paid plan
    reasoning: bool = False
    functions: bool = False
    vision: bool = False  # it takes images

    def removal(self, now: float) -> str:
        """Return what to say of its planned removal, or an empty text. `now` is in seconds since the epoch."""
        if not self.deprecation:
            return ""
        from datetime import UTC, datetime  # here, because few lists ever need it

        past = self.deprecation < datetime.fromtimestamp(now, UTC).date().isoformat()
        return f"{'was' if past else 'is going'} to be removed on {self.deprecation}"


def read_models(body: bytes) -> list[Model]:
    """Return the text models in the reply to GET models/search.

    Raises:
        UpstreamProtocolError: the body is something else.
    """
    try:
        listed = [item for item in json.loads(body)["result"] if item["task"]["name"] == "Text Generation"]
        models = [_model(item["name"], item.get("properties") or ()) for item in listed]
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        failure = UpstreamProtocolError(detail="this is no list of models")
        failure.origin_text = text_of(body)
        raise failure from error
    return [model for model in models if is_model_name(model.name)]


def _model(name: str, properties: Any) -> Model:
    values = {item["property_id"]: item["value"] for item in properties}
    prices = {item["unit"]: item["price"] for item in values.get("price") or ()}
    return Model(
        str(name),
        _window(values.get("context_window")),
        _price(prices.get("per M input tokens")),
        _price(prices.get("per M output tokens")),
        _day(values.get("planned_deprecation_date")),
        _is_true(values.get("require_workers_paid")),
        _is_true(values.get("reasoning")),
        _is_true(values.get("function_calling")),
        _is_true(values.get("vision")),
    )


def _window(value: object) -> int | None:
    text = str(value)  # the list has numbers as strings
    return int(text) if _TOKENS.fullmatch(text) else None


def _day(value: object) -> str:
    match = _DAY.match(value) if isinstance(value, str) else None  # a time may follow
    return "" if match is None else match[0]


def _price(value: object) -> float | None:
    return float(value) if type(value) in (int, float) else None  # type: ignore[arg-type]


def _is_true(value: object) -> bool:
    return value is True or value == "true"
