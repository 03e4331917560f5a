"""The access log: one line per request, what was decided in it, and no secret."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastroute.upstream.mock import MockUpstream, json_response
from tests.e2e.client import ask, chat, completion
from tests.e2e.harness import LANE, Gateway, ThreadedUpstream, exchange, wait_until

KEY = "sk-access-log-key"


@pytest.fixture(scope="module")
def upstream() -> Iterator[MockUpstream]:
    with ThreadedUpstream(lambda request: json_response(200, completion())) as running:
        yield running


def config(upstream: MockUpstream, log: str) -> dict[str, Any]:
    url = f"{upstream.url}/v1"
    price = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 1}
    return {
        "server": {"access_log": log, "workers": 2},
        "auth": {"keys": [{"id": "app", "key": KEY, "tenant": "team"}]},
        "providers": [
            {
                "id": "p",
                "type": "openai",
                "base_url": url,
                "keys": ["upstream-secret"],
                "models": [{"name": "m", "price": price}],
            }
        ],
        "rules": [{"id": "r", "when": {"header": {"x-team": ["red"]}}, "then": {"strategy": "round_robin"}}],
    }


def lines(path: Path, count: int) -> list[dict[str, Any]]:
    wait_until(lambda: path.exists() and path.read_bytes().count(b"\n") >= count)
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_line_for_each_request(tmp_path: Path, upstream: MockUpstream) -> None:
    path = tmp_path / "access.log"
    with Gateway(config(upstream, str(path)), tmp_path) as gateway:
        ask(gateway, KEY, chat(), x_team="red", x_request_id="mine")
        ask(gateway, "sk-not-known", chat())
        ask(gateway, KEY, chat("unheard-of"))
        [answer] = exchange(gateway.port, b"GET /v1/messages?key=sk-not-known HTTP/1.1\r\nx\r\n\r\n").answers
        count = 4 if LANE == "direct" else 3
        found = {entry["status"]: entry for entry in lines(path, count)}
    assert len(found) == count
    if LANE == "direct":
        assert (found[400]["request_id"], found[400]["outcome"]) == (answer.header("x-request-id"), "refused")
        assert (found[400]["operation"], found[400]["error"]) == (None, "invalid_request_error")
    served = found[200]
    assert served["request_id"] == "mine"
    assert (served["key"], served["tenant"], served["model"], served["provider"]) == ("app", "team", "m", "p")
    assert (served["strategy"], served["rules"], served["attempts"]) == ("round_robin", ["r"], 1)
    assert (served["input_tokens"], served["output_tokens"], served["cost_nano_usd"]) == (7, 5, 12_000)
    assert 0 < served["first_byte_ms"] <= served["total_ms"]
    assert (served["outcome"], served["error"]) == ("ok", None)
    assert (found[401]["key"], found[401]["error"], found[401]["outcome"]) == (None, "invalid_api_key", "refused")
    assert (found[404]["key"], found[404]["error"]) == ("app", "model_not_found")
    text = path.read_text()
    assert KEY not in text
    assert "sk-not-known" not in text
    assert "upstream-secret" not in text


def test_a_rotated_file_is_let_go_at_a_reload(tmp_path: Path, upstream: MockUpstream) -> None:
    path = tmp_path / "access.log"
    with Gateway(config(upstream, str(path)), tmp_path) as gateway:
        ask(gateway, KEY, chat())
        lines(path, 1)
        moved = path.rename(tmp_path / "access.log.1")
        gateway.reload()
        wait_until(lambda: gateway.log.count("is in force") == 2)
        for _ in range(6):
            ask(gateway, KEY, chat())
        assert len(lines(path, 6)) == 6
        assert len(lines(moved, 1)) == 1


def test_lines_that_wait_are_written_at_the_end(tmp_path: Path, upstream: MockUpstream) -> None:
    path = tmp_path / "access.log"
    with Gateway(config(upstream, str(path)), tmp_path) as gateway:
        for _ in range(20):
            ask(gateway, KEY, chat())
        assert gateway.terminate() == 0
    assert len(lines(path, 20)) == 20


def test_standard_output(tmp_path: Path, upstream: MockUpstream) -> None:
    with Gateway(config(upstream, "-"), tmp_path) as gateway:
        ask(gateway, KEY, chat())
        wait_until(lambda: '"outcome":"ok"' in gateway.log)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written(tmp_path: Path, upstream: MockUpstream) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    gateway = Gateway(config(upstream, str(tmp_path / "closed" / "log")), tmp_path)
    with pytest.raises(AssertionError, match="cannot write the access log"):
        gateway.start()


def test_a_path_that_is_no_file(tmp_path: Path, upstream: MockUpstream) -> None:
    gateway = Gateway(config(upstream, str(tmp_path)), tmp_path)
    with pytest.raises(AssertionError, match="cannot write the access log"):
        gateway.start()
