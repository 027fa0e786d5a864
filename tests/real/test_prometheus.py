"""The alerts and the dashboard that `deploy` prints, read by Prometheus: by promtool, and at work before a cfchat."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

from client import get
from command import deploy, free_port
from proxies import passes, tool
from serving import WORDS, post, served
from standin import Exchange, json_error

# What a healthy cfchat of four workers shows, one number a minute: `a+bxn` grows by b, n times.
HEALTHY = {
    'up{job="cfchat"}': "1x60",
    "cfchat_ready": "4x60",
    'cfchat_requests_total{route="/api/chatbot",status="200"}': "0+60x60",
    'cfchat_requests_total{route="/healthz",status="200"}': "0+60x60",
    "cfchat_tries_total": "0+60x60",
    'cfchat_replies_total{end="whole"}': "0+58x60",
    'cfchat_replies_total{end="broken"}': "0+2x60",
    'cfchat_upstream_errors_total{code="upstream_overloaded"}': "0+2x60",
    'cfchat_first_token_seconds_bucket{le="2.5"}': "0+60x60",
    'cfchat_first_token_seconds_bucket{le="30"}': "0+60x60",
    'cfchat_first_token_seconds_bucket{le="+Inf"}': "0+60x60",
    'cfchat_loop_lag_seconds_bucket{le="0.005"}': "0+1200x60",
    'cfchat_loop_lag_seconds_bucket{le="0.5"}': "0+1200x60",
    'cfchat_loop_lag_seconds_bucket{le="+Inf"}': "0+1200x60",
    'cfchat_streams{state="running"}': "20x60",
    'cfchat_streams{state="waiting"}': "0x60",
    'cfchat_tokens_today{worker="71"}': "0+10x60",
    'cfchat_tokens_today{worker="72"}': "0+10x60",
    'cfchat_tokens_today{worker="ended"}': "9999x60",
    'cfchat_budget_tokens{worker="71"}': "1000x60",
    'cfchat_budget_tokens{worker="72"}': "1000x60",
    "cfchat_log_lines_dropped_total": "0x60",
}
NONE = dict.fromkeys(HEALTHY, "")
ILL: dict[str, tuple[Mapping[str, str], set[str]]] = {
    "healthy": ({}, set()),
    "idle": (NONE | {'up{job="cfchat"}': "1x60", "cfchat_ready": "4x60"}, set()),
    "gone": (NONE, {"CfchatDown"}),
    "silent": (NONE | {'up{job="cfchat"}': "0x60"}, {"CfchatDown"}),
    "unreachable": ({"cfchat_ready": "0x60"}, {"CfchatNotReady"}),
    "a worker less": ({"cfchat_ready": "3x60"}, {"CfchatWorkersMissing"}),
    "none whole": (
        {'cfchat_replies_total{end="whole"}': "7x60", 'cfchat_upstream_errors_total{code="upstream_empty"}': "0+60x60"},
        {"CfchatNoWholeReplies", "CfchatTriesFail"},
    ),
    "errors": (
        {'cfchat_requests_total{route="/v1/chat/completions",status="503"}': "0+9x60"},
        {"CfchatErrors"},
    ),
    "tries fail": ({'cfchat_upstream_errors_total{code="upstream_overloaded"}': "0+20x60"}, {"CfchatTriesFail"}),
    "slow": ({'cfchat_first_token_seconds_bucket{le="2.5"}': "0+50x60"}, {"CfchatFirstTokenSlow"}),
    "full": ({'cfchat_streams{state="waiting"}': "5x60"}, {"CfchatFull"}),
    "late": ({'cfchat_loop_lag_seconds_bucket{le="0.005"}': "0+1100x60"}, {"CfchatLoopLag"}),
    "token": ({'cfchat_upstream_errors_total{code="upstream_auth"}': "0+1x60"}, {"CfchatTokenRefused"}),
    "quota": ({'cfchat_upstream_errors_total{code="upstream_quota"}': "0+1x60"}, {"CfchatQuota"}),
    "80 %": ({'cfchat_tokens_today{worker="72"}': "850x60"}, {"CfchatBudgetLow"}),
    "95 %": ({'cfchat_tokens_today{worker="72"}': "950x60"}, {"CfchatBudgetSpent"}),
    "lines lost": ({"cfchat_log_lines_dropped_total": "0+1x60"}, {"CfchatLogLinesLost"}),
}


def test_promtool_reads_the_rules_and_each_alert_fires_when_it_should(tmp_path: Path) -> None:
    """Of what happens, each alert fires for its own cause, and no other does."""
    promtool, rules = tool("promtool"), tmp_path / "cfchat-alerts.yaml"
    rules.write_text(deploy("alerts", "--workers", "4"))
    passes(promtool, "check", "rules", "--lint=all", "--lint-fatal", str(rules))
    assert set(re.findall(r"- alert: (\w+)", rules.read_text())) == set().union(*(fire for _, fire in ILL.values()))

    def case(name: str, change: Mapping[str, str], fire: set[str]) -> dict[str, object]:
        return {
            "name": name,
            "interval": "1m",
            "input_series": [
                {"series": on_an_instance(series), "values": values}
                for series, values in {**HEALTHY, **change}.items()
                if values
            ],
            "promql_expr_test": [
                {
                    "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                    "eval_time": "45m",
                    "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in sorted(fire)],
                }
            ],
        }

    tests = [case(name, *given) for name, given in ILL.items()]
    file = tmp_path / "test.yaml"
    file.write_text(json.dumps({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": tests}))
    passes(promtool, "test", "rules", str(file))


def on_an_instance(series: str) -> str:
    name, _, labels = series.partition("{")
    return f'{name}{{instance="a",{labels}' if labels else f'{name}{{instance="a"}}'


@asynccontextmanager
async def prometheus(folder: Path, admin: int) -> AsyncIterator[int]:
    """Run Prometheus with the rules before an admin address; gives its port."""
    port = free_port()
    (folder / "alerts.yaml").write_text(await asyncio.to_thread(deploy, "alerts"))
    job = {"job_name": "cfchat", "static_configs": [{"targets": [f"127.0.0.1:{admin}"]}]}
    settings = {"global": {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"}}
    file = folder / "prometheus.yaml"
    file.write_text(json.dumps({**settings, "rule_files": ["alerts.yaml"], "scrape_configs": [job]}))
    await asyncio.to_thread(passes, tool("promtool"), "check", "config", str(file))
    flags = (f"--config.file={file}", f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}")
    null = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(tool("prometheus"), *flags, stdout=null, stderr=null)
    try:
        yield port
    finally:
        process.kill()
        await process.wait()


async def query(port: int, expression: str) -> list[object]:
    """Return what an expression gives. Empty while Prometheus starts."""
    try:
        answer = await get(port, f"/api/v1/query?query={quote(expression)}")
    except ConnectionError:
        return []
    if answer.status == 503:
        return []
    assert answer.status == 200, answer.body
    found: list[object] = json.loads(answer.body)["data"]["result"]
    return found


async def test_each_curve_of_the_dashboard_has_something_to_draw(tmp_path: Path) -> None:
    """Prometheus understands each expression, and finds for each what a cfchat at work shows."""
    tool("prometheus")
    dashboard = json.loads(await asyncio.to_thread(deploy, "grafana"))
    wanted = {target["expr"] for panel in dashboard["panels"] for target in panel["targets"]}
    answers = (WORDS, json_error(401, 10000, "Authentication error"))

    async def script(exchange: Exchange) -> None:
        await answers[b"refuse" in exchange.body](exchange)

    async with served(script, admin="127.0.0.1:0", daily_tokens=10**9) as serving:
        assert serving.service.admin is not None
        async with prometheus(tmp_path, serving.service.admin.address[1]) as port:
            while wanted:
                assert (await post(serving.port)).whole
                await post(serving.port, b'[{"role": "user", "content": "refuse"}]')
                await post(serving.port, b"no json")
                for expression in sorted(wanted):
                    concrete = expression.replace("$__rate_interval", "1m").replace("$instance", ".*")
                    if await query(port, concrete):
                        wanted.remove(expression)
