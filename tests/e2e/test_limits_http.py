"""Ceilings of keys, tenants, models and provider keys, over HTTP: who is let in, what the others are told."""

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastroute._core._limits_file import DAY_REQUESTS, DAY_TOKENS, MAX_COUNT
from fastroute._core.counters import ATOMIC
from fastroute._core.limits import Table
from fastroute.upstream.mock import Pause, json_response
from tests.behaviour.gateway_in_process import NO_BREAKER
from tests.e2e.client import Answer, ask, begin, chat, completion, connect
from tests.e2e.fleet import GOOD, KEY, Fleet, Gate, Load, config, wake
from tests.e2e.harness import Gateway, wait_until

EXACT = pytest.mark.skipif(not ATOMIC, reason="the pure half does not promise it for several workers")
#: One that nothing limits; it wakes the workers up.
FREE = KEY
OURS = [f"x-ratelimit-{what}-{of}" for of in ("requests", "tokens") for what in ("limit", "remaining", "reset")]


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with Fleet("a", "b") as made:
        yield made


def keys(*limited: dict[str, Any]) -> dict[str, Any]:
    """Return an `auth` whose keys have the secret sk-ID."""
    made = [{"key": f"sk-{one['id']}", **one} for one in limited]
    return {"keys": [{"id": "free", "key": FREE}, *made]}


@contextmanager
def running(directory: Path, providers: list[dict[str, Any]], workers: int = 1, **more: Any) -> Iterator[Gateway]:
    with Gateway(config(providers, workers, **more), directory) as gateway:
        if workers > 1:
            wake(gateway)
        yield gateway
        gateway.wait_idle()
    assert "Traceback" not in gateway.log


def held(gateway: Gateway, subject: str) -> int:
    table = Table.open(os.path.join(gateway.state_dir, "limits"))
    try:
        return table.held(table.find(subject))
    finally:
        table.close()


def held_day(gateway: Gateway, subject: str) -> int:
    """Return how many tokens the day counts."""
    table = Table.open(os.path.join(gateway.state_dir, "limits"))
    try:
        return table.cell(table.find(subject), DAY_TOKENS) & MAX_COUNT
    finally:
        table.close()


def limit_fields(answer: Answer) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if "ratelimit" in name}


def statuses(gateway: Gateway, key: str, requests: int) -> Counter[int]:
    load = Load(gateway, clients=40, headers=lambda number: {"authorization": f"Bearer {key}"})
    return Counter(reply.status for reply in load.send(requests))


@EXACT
def test_four_workers_admit_exactly_what_a_minute_allows(fleet: Fleet, tmp_path: Path) -> None:
    auth = keys({"id": "k", "limits": {"rpm": 100}})
    with running(tmp_path, fleet.providers(), 4, auth=auth) as gateway:
        began = time.monotonic()
        seen = statuses(gateway, "sk-k", 400)
        refilled = int((time.monotonic() - began) / 0.6)
        assert set(seen) == {200, 429}
        assert 100 <= seen[200] <= 100 + refilled
        assert sum(fleet.counts().values()) == seen[200]


@EXACT
def test_four_workers_admit_exactly_what_a_day_allows(fleet: Fleet, tmp_path: Path) -> None:
    tenants = [{"id": "t", "limits": {"rpd": 100}}]
    auth = keys({"id": "k", "tenant": "t"}, {"id": "l", "tenant": "t", "limits": {"rpd": 1000}})
    with running(tmp_path, fleet.providers(), 4, auth=auth, tenants=tenants) as gateway:
        assert statuses(gateway, "sk-k", 200) + statuses(gateway, "sk-l", 200) == {200: 100, 429: 300}
        assert ask(gateway, FREE, chat()).status == 200


@EXACT
def test_four_workers_let_no_more_be_under_way_than_they_may(fleet: Fleet, tmp_path: Path) -> None:
    gate = fleet.plays["a"] = fleet.plays["b"] = Gate(fleet)
    auth = keys({"id": "k", "limits": {"concurrency": 10}})
    with running(tmp_path, fleet.providers(), 4, auth=auth) as gateway:
        links = [connect(gateway) for _ in range(10)]
        for link in links:
            body = json.dumps(chat()).encode()
            link.request("POST", "/v1/chat/completions", body, {"authorization": "Bearer sk-k"})
        wait_until(lambda: gate.held == 10)
        assert held(gateway, "key:k") == 10
        assert statuses(gateway, "sk-k", 40) == {429: 40}
        gate.open()
        assert [link.getresponse().status for link in links] == [200] * 10
        wait_until(lambda: held(gateway, "key:k") == 0)
        assert gate.held == 10
        for link in links:
            link.close()


def test_what_a_killed_worker_held_is_given_back(fleet: Fleet, tmp_path: Path) -> None:
    gate = fleet.plays["a"] = fleet.plays["b"] = Gate(fleet)
    auth = keys({"id": "k", "limits": {"concurrency": 2}})
    with running(tmp_path, fleet.providers(), auth=auth) as gateway:
        links = [connect(gateway) for _ in range(2)]
        for link in links:
            body = json.dumps(chat()).encode()
            link.request("POST", "/v1/chat/completions", body, {"authorization": "Bearer sk-k"})
        wait_until(lambda: gate.held == 2)
        assert ask(gateway, "sk-k", chat()).status == 429
        os.kill(gateway.children()[-1], signal.SIGKILL)
        wait_until(lambda: held(gateway, "key:k") == 0)
        gateway.wait_ready(10)
        gate.open()
        assert ask(gateway, "sk-k", chat()).status == 200
        for link in links:
            link.close()


def test_a_refusal_says_whose_limit_it_is_and_when_to_come_back(fleet: Fleet, tmp_path: Path) -> None:
    auth = keys({"id": "k", "limits": {"rpm": 2, "tpm": 100_000}})
    with running(tmp_path, fleet.providers(), auth=auth) as gateway:
        first, second, third = (ask(gateway, "sk-k", chat(max_tokens=100)) for _ in range(3))
        assert (first.status, second.status, third.status) == (200, 200, 429)
        assert third.document["error"]["code"] == "rate_limit_exceeded"
        assert third.document["error"]["message"].startswith("rate limit reached: 2 requests per minute for this key;")
        assert third.headers["retry-after"] in ("29", "30")
        assert 28_000 <= int(third.headers["retry-after-ms"]) <= 30_000
        assert "sk-k" not in third.body.decode()
        assert limit_fields(first).keys() == limit_fields(third).keys() == set(OURS)
        assert [one.headers["x-ratelimit-remaining-requests"] for one in (first, second, third)] == ["1", "0", "0"]
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-reset-requests"] in ("30s", "29.999s") or first.headers[
            "x-ratelimit-reset-requests"
        ].startswith("29.9")
        assert first.headers["x-ratelimit-limit-tokens"] == "100000"
        # A refusal leaves no record.
        assert len(gateway.records()) == 2


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/v1/chat/completions", chat(), ("error", "code", "rate_limit_exceeded")),
        ("/v1/messages", chat(max_tokens=5), ("error", "type", "rate_limit_error")),
        ("/v1beta/models/m:generateContent", {"contents": []}, ("error", "status", "RESOURCE_EXHAUSTED")),
    ],
)
def test_a_refusal_is_in_the_callers_dialect(
    tmp_path: Path, path: str, body: dict[str, object], kind: tuple[str, str, str]
) -> None:
    auth = keys({"id": "k", "limits": {"rpd": 1}})
    with running(tmp_path, [{"id": "e", "type": "echo", "models": ["m"]}], auth=auth) as gateway:
        assert ask(gateway, "sk-k", chat()).status == 200
        refused = ask(gateway, "sk-k", body, path)
        assert refused.status == 429
        outer, inner, expected = kind
        assert refused.document[outer][inner] == expected
        assert int(refused.headers["retry-after"]) > 0


def test_tokens_are_debited_and_settled_by_what_was_used(fleet: Fleet, tmp_path: Path) -> None:
    used = {"prompt_tokens": 20, "completion_tokens": 30, "total_tokens": 50}
    fleet.plays["a"] = json_response(200, completion(used))
    auth = keys({"id": "k", "limits": {"tpd": 1000}})
    with running(tmp_path, [fleet.provider("a")], auth=auth) as gateway:
        left = [int(ask(gateway, "sk-k", chat(max_tokens=600)).headers["x-ratelimit-remaining-tokens"]) for _ in "ab"]
        # What the first one did not use is there again for the second.
        assert left[0] < 400
        assert left[0] - left[1] == 50
        refused = ask(gateway, "sk-k", chat(max_tokens=950))
        assert refused.status == 429
        assert "1000 tokens per day for this key" in refused.document["error"]["message"]
        assert refused.headers["x-ratelimit-remaining-tokens"] == "900"
        assert ask(gateway, "sk-k", chat(max_tokens=850)).status == 200


@pytest.mark.parametrize(
    ("reported", "most"),
    [
        ("1e15", 1000), ("1000000000000000", 1000), ("100000000000", 1000), ("-100000000000", 1000), ("NaN", 1000),
        ('"100000000000"', 1000), ("[7]", 1000), ("99999999", 10_000_000), ("400", 407),
    ],
)  # fmt: skip
def test_an_absurd_report_keeps_nobody_out(fleet: Fleet, tmp_path: Path, reported: str, most: int) -> None:
    usage = f'{{"prompt_tokens": 7, "completion_tokens": {reported}, "total_tokens": 12}}'
    body = json.dumps(completion()).replace(json.dumps(completion()["usage"]), usage).encode()
    fleet.plays["a"] = json_response(200, body)
    limits = {"tpd": 50_000_000, "tpm": 50_000_000}
    auth = keys({"id": "k", "limits": limits})
    with running(tmp_path, [fleet.provider("a")], auth=auth, tenants=[{"id": "default", "limits": limits}]) as gateway:
        assert ask(gateway, "sk-k", chat()).status == 200
        wait_until(lambda: held_day(gateway, "key:k") <= most)
        assert held_day(gateway, "tenant:default") <= most
        assert ask(gateway, "sk-k", chat()).status == 200


def test_a_failed_request_uses_no_tokens(fleet: Fleet, tmp_path: Path) -> None:
    fleet.plays["a"] = json_response(400, {"error": {"message": "no"}})
    auth = keys({"id": "k", "limits": {"tpd": 1000, "concurrency": 1}})
    with running(tmp_path, [fleet.provider("a")], auth=auth) as gateway:
        for _ in range(5):
            assert ask(gateway, "sk-k", chat(max_tokens=900)).status == 400
        fleet.plays["a"] = GOOD
        assert ask(gateway, "sk-k", chat(max_tokens=900)).status == 200


def test_a_request_that_can_never_fit_is_told_so(fleet: Fleet, tmp_path: Path) -> None:
    auth = keys({"id": "k", "limits": {"tpm": 100}})
    with running(tmp_path, fleet.providers(), auth=auth) as gateway:
        refused = ask(gateway, "sk-k", chat(max_tokens=101))
        assert refused.status == 429
        assert refused.headers["x-should-retry"] == "false"
        assert "this request alone needs more" in refused.document["error"]["message"]
        # Nobody has said how long this answer may be.
        assert ask(gateway, "sk-k", chat()).status == 200
        assert fleet.upstream.request_count == 1


def test_a_model_is_limited_whoever_asks(fleet: Fleet, tmp_path: Path) -> None:
    limits = {"models": {"m-1": {"rpd": 2}, "m-*": {"rpd": 1}}}
    providers = [fleet.provider("a", models=["m-*"])]
    with running(tmp_path, providers, auth=keys({"id": "k"}), limits=limits, aliases={"one": "m-1"}) as gateway:
        assert [ask(gateway, "sk-k", chat(name)).status for name in ("m-1", "one", "m-1")] == [200, 200, 429]
        refused = ask(gateway, FREE, chat("m-1"))
        assert "2 requests per day for this model" in refused.document["error"]["message"]
        # The limit is the model's: it says nothing of what the caller has left.
        assert limit_fields(refused) == {}
        assert [ask(gateway, FREE, chat(name)).status for name in ("m-2", "m-3")] == [200, 429]


def test_a_providers_own_fields_are_replaced_for_a_limited_caller(fleet: Fleet, tmp_path: Path) -> None:
    theirs = [
        (b"x-ratelimit-limit-requests", b"7777"), (b"x-ratelimit-remaining-tokens", b"7777"),
        (b"anthropic-ratelimit-tokens-limit", b"7777"), (b"x-other", b"kept"),
    ]  # fmt: skip
    fleet.plays["a"] = json_response(200, completion(), theirs)
    auth = keys({"id": "k", "limits": {"rpm": 10}})
    with running(tmp_path, [fleet.provider("a")], auth=auth) as gateway:
        limited, free = ask(gateway, "sk-k", chat()), ask(gateway, FREE, chat())
        assert limited.headers["x-other"] == free.headers["x-other"] == "kept"
        assert limit_fields(limited).keys() == set(OURS[:3])
        assert "7777" not in limit_fields(limited).values()
        assert set(limit_fields(free).values()) == {"7777"}
        assert "x-ratelimit-limit-requests" in ask(gateway, "sk-k", chat(stream=True)).headers
        assert "x-ratelimit-limit-requests" in ask(gateway, "sk-k", chat("nobody")).headers


def test_a_provider_key_is_used_no_more_than_it_may_be(fleet: Fleet, tmp_path: Path) -> None:
    entry = fleet.provider("a", keys=[{"id": "k1", "key": "up-1", "rpd": 2}, {"id": "k2", "key": "up-2", "rpd": 3}])
    with running(tmp_path, [entry], auth=keys()) as gateway:
        answers = [ask(gateway, FREE, chat()) for _ in range(7)]
        assert [one.status for one in answers] == [200] * 5 + [429] * 2
        used = Counter(one.header(b"authorization") for one in fleet.upstream.requests)
        assert used == {b"Bearer up-1": 2, b"Bearer up-2": 3}
        assert answers[-1].document["error"]["code"] == "rate_limit_exceeded"
        assert 0 < int(answers[-1].headers["retry-after"]) <= 86_400
        assert [one.headers["x-fastroute-attempts"] for one in answers[:5]] == ["1"] * 5


def test_the_least_wait_of_all_provider_keys_is_told(fleet: Fleet, tmp_path: Path) -> None:
    entry = fleet.provider("a", keys=[{"id": "k1", "key": "up-1", "rpm": 1}, {"id": "k2", "key": "up-2", "rpm": 2}])
    with running(tmp_path, [entry], auth=keys()) as gateway:
        answers = [ask(gateway, FREE, chat()) for _ in range(4)]
        assert [one.status for one in answers] == [200, 200, 200, 429]
        assert int(answers[-1].headers["retry-after"]) in (29, 30)
        # By now both are known to rest, and nobody need ask the limits.
        again = ask(gateway, FREE, chat())
        assert (again.status, int(again.headers["retry-after"]) in (28, 29, 30)) == (429, True)
        reasons = {one["removed_by"] for one in gateway.explain({"model": "m"})["candidates"]}
        assert reasons == {"cooldown"}


def test_more_exhausted_keys_than_gates_can_remember(fleet: Fleet, tmp_path: Path) -> None:
    many = [{"id": f"k{number}", "key": f"up-{number}", "rpd": 1} for number in range(80)]
    with running(tmp_path, [fleet.provider("a", keys=many)], auth=keys()) as gateway:
        seen = Counter(ask(gateway, FREE, chat()).status for _ in range(90))
        assert seen.keys() == {200, 429}
        assert seen[200] <= 80
        used = Counter(one.header(b"authorization") for one in fleet.upstream.requests)
        assert set(used.values()) == {1}


def test_quotas_outlive_a_restart_and_ceilings_change_with_a_reload(fleet: Fleet, tmp_path: Path) -> None:
    auth = keys({"id": "k", "limits": {"rpd": 3, "rpm": 3}})
    document = config(fleet.providers(), 1, auth=auth)
    with Gateway(document, tmp_path) as gateway:
        assert [ask(gateway, "sk-k", chat()).status for _ in range(2)] == [200, 200]
    with Gateway(document, tmp_path) as gateway:
        assert [ask(gateway, "sk-k", chat()).status for _ in range(2)] == [200, 429]
        changed = json.loads(gateway.config_file.read_text())
        changed["auth"]["keys"][1]["limits"] = {"rpd": 4}
        gateway.write_config(changed)
        gateway.reload()
        wait_until(lambda: "configuration 2 is in force" in gateway.log)
        assert [ask(gateway, "sk-k", chat()).status for _ in range(2)] == [200, 429]


def test_an_open_gateway_keeps_to_the_limits_of_its_tenant(tmp_path: Path) -> None:
    document = {
        "providers": [{"id": "e", "type": "echo", "models": ["m"]}],
        "tenants": [{"id": "default", "limits": {"rpd": 1}}],
    }
    with Gateway(document, tmp_path) as gateway:
        assert [ask(gateway, "", chat()).status for _ in range(2)] == [200, 429]


def test_a_client_that_leaves_holds_nothing(fleet: Fleet, tmp_path: Path) -> None:
    gate = fleet.plays["a"] = Gate(fleet)
    auth = keys({"id": "k", "limits": {"concurrency": 1, "tpd": 100_000}})
    with running(tmp_path, [fleet.provider("a")], auth=auth) as gateway:
        link = connect(gateway)
        body = json.dumps(chat(max_tokens=50_000)).encode()
        link.request("POST", "/v1/chat/completions", body, {"authorization": "Bearer sk-k"})
        wait_until(lambda: gate.held == 1)
        assert held(gateway, "key:k") == 1
        link.close()
        wait_until(lambda: held(gateway, "key:k") == 0)
        gate.open()
        answer = ask(gateway, "sk-k", chat(max_tokens=10))
        assert answer.status == 200
        assert int(answer.headers["x-ratelimit-remaining-tokens"]) > 99_000


def test_a_stream_that_breaks_off_is_settled_once(fleet: Fleet, tmp_path: Path) -> None:
    auth = keys({"id": "k", "limits": {"concurrency": 1, "rpm": 100}})
    with running(tmp_path, [{"id": "e", "type": "echo", "models": ["m"]}], auth=auth) as gateway:
        for _ in range(10):
            link = connect(gateway)
            response = begin(link, "sk-k", chat(stream=True, messages=[{"role": "user", "content": "x " * 5000}]))
            response.read(10)
            link.close()
            wait_until(lambda: held(gateway, "key:k") == 0)
        assert ask(gateway, "sk-k", chat()).status == 200


@EXACT
def test_what_the_ledger_says_was_used_is_what_the_limits_count(fleet: Fleet, tmp_path: Path) -> None:
    """Answers, failures, streams, second attempts and clients that leave at any time: settled once, each of them."""
    fleet.plays["a"] = json_response(500, {"error": {"message": "scripted"}})
    fleet.plays["b"] = [Pause(0.02), *GOOD]
    rng = random.Random(11)
    leaves = [rng.choice([None, None, 0.0, 0.005, 0.03, 0.2]) for _ in range(300)]
    limits = {"concurrency": 1000, "tpd": 10**12, "rpd": 10**12, "tpm": 10**12, "rpm": 10**12}
    tenants = [{"id": "t", "limits": limits}]
    auth = keys({"id": "k", "tenant": "t", "limits": limits})
    more: dict[str, Any] = {"tenants": tenants, "limits": {"models": {"m": limits}}, "routing": {"breaker": NO_BREAKER}}
    key = [{"id": "k1", "key": "up", **limits}]
    with running(tmp_path, fleet.providers(keys=key), 4, auth=auth, **more) as gateway:
        load = Load(
            gateway,
            body=lambda number: chat(stream=bool(number % 3 == 0), max_tokens=1000 + number),
            headers=lambda number: {"authorization": "Bearer sk-k"},
            leaves=lambda number: leaves[number],
        )
        load.send(300)
        gateway.wait_idle()
        subjects = ("key:k", "tenant:t", "model:m", "provider-key:a/k1", "provider-key:b/k1")
        wait_until(lambda: not any(held(gateway, subject) for subject in subjects))
        rows = [row for row in gateway.records() if row["key_id"] == "k"]
        used = sum(row["input_tokens"] + row["output_tokens"] + row["cache_read_tokens"] for row in rows)
        assert used > 0
        table = Table.open(os.path.join(gateway.state_dir, "limits"))
        for subject in subjects[:3]:
            slot = table.find(subject)
            assert table.cell(slot, DAY_TOKENS) & MAX_COUNT == used
            assert table.cell(slot, DAY_REQUESTS) & MAX_COUNT == len(rows)
        table.close()
