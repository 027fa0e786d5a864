"""Prometheus' own parser reads /metrics: `pytest tests/hosts/prometheus.py`, where requirements.txt is installed."""

from __future__ import annotations

import asyncio
from urllib.request import Request, urlopen

from prometheus_client.parser import text_string_to_metric_families

import cfchat

BODY = b'[{"role": "user", "content": "I am unhappy"}]'


def fetch(url: str, body: bytes | None = None) -> str:
    with urlopen(Request(url, body, {"Content-Type": "application/json"})) as reply:
        return str(reply.read(), "utf-8")


async def test_prometheus_reads_what_was_counted() -> None:
    async with cfchat.serve(cfchat.load_config(demo=True, port=0, environ={})) as serving:
        for _ in range(3):
            await asyncio.to_thread(fetch, serving.url + "api/chatbot", BODY)
        text = await asyncio.to_thread(fetch, serving.url + "metrics")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    kinds = {name: family.type for name, family in families.items()}
    assert kinds["cfchat_requests"] == kinds["cfchat_tokens"] == "counter"
    assert kinds["cfchat_first_token_seconds"] == kinds["cfchat_loop_lag_seconds"] == "histogram"
    assert kinds["cfchat_streams"] == "gauge"
    asked = [sample for sample in families["cfchat_requests"].samples if sample.labels["route"] == "/api/chatbot"]
    assert [(sample.labels["status"], sample.value) for sample in asked] == [("200", 3.0)]
    assert all(family.documentation for family in families.values())
