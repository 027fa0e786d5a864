"""Workers AI's requests: models and what is known of them, paths, the body of a POST, the list of models. Pure."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from cfchat.errors import UpstreamProtocolError

_TOKENS = re.compile(r"[0-9]{1,9}")


class Model(NamedTuple):
    """What the list says of a model. `window` is in tokens, prices are US$ for a million tokens in and out."""

    name: str
    window: int | None = None
    price_in: float | None = None
    price_out: float | None = None
    deprecation: str = ""  # the day on which it is planned to be removed
    paid: bool = False  # on the Workers Paid plan only
    reasoning: bool = False
    functions: bool = False


def read_models(body: bytes) -> list[Model]:
    """The text models in the reply to GET models/search. Raises UpstreamProtocolError where it is something else."""
    try:
        found = json.loads(body)["result"]
        listed = [item for item in found if item["task"]["name"] == "Text Generation"]
        return [_model(item["name"], item.get("properties") or ()) for item in listed]
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        reason = f"list of models: {body[:200]!r}"
        raise UpstreamProtocolError("The model's server sent nonsense.", detail=reason) from error


def _model(name: str, properties: Any) -> Model:
    told = {item["property_id"]: item["value"] for item in properties}
    prices = {item["unit"]: item["price"] for item in told.get("price") or ()}
    return Model(
        str(name),
        _window(told.get("context_window")),
        _price(prices.get("per M input tokens")),
        _price(prices.get("per M output tokens")),
        str(told.get("planned_deprecation_date") or "")[:10],
        _is_true(told.get("require_workers_paid")),
        _is_true(told.get("reasoning")),
        _is_true(told.get("function_calling")),
    )


def _window(value: object) -> int | None:
    text = str(value)  # the list has numbers as strings
    return int(text) if _TOKENS.fullmatch(text) else None


def _price(value: object) -> float | None:
    return float(value) if type(value) in (int, float) else None  # type: ignore[arg-type]


def _is_true(value: object) -> bool:
    return value is True or value == "true"
