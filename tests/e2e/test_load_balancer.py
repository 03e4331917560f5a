"""The load balancer's paths and variables, as its users have them: no file, a token in the path, their SDKs."""

import http.client
import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anthropic
import pytest
from google import genai

from fastroute._core.counters import ATOMIC
from fastroute.upstream.mock import Request, Script, json_response, sse_response
from tests.e2e.harness import Gateway, wait_until
from tests.e2e.keys import KeyServer
from tests.ports import two_free_ports_in_a_row

WORKERS = 4 if ATOMIC else 1
UUID = "5c1f6f0e-9a51-4f43-8c1c-2f0f9f2b7d11"
WRONG = "5c1f6f0e-9a51-4f43-8c1c-2f0f9f2b7d12"
CLAUDE = ("sk-ant-first-1234567890", "sk-ant-second-123456789", "sk-third-1234567890abcd")
GEMINI = ("AIza-first-1234567890abc", "AIza-second-1234567890ab")
ASK: Any = {"model": "claude-3-sonnet", "max_tokens": 100, "messages": [{"role": "user", "content": "Hello, world!"}]}
GEMINI_ASK = {"contents": [{"parts": [{"text": "hello"}]}]}
MESSAGE = {
    "id": "m", "type": "message", "role": "assistant", "model": "claude-3-sonnet", "stop_reason": "end_turn",
    "content": [{"type": "text", "text": "hi"}], "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 1},
}  # fmt: skip
CONTENT = {
    "candidates": [{"content": {"role": "model", "parts": [{"text": "hi"}]}, "finishReason": "STOP", "index": 0}],
    "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 1, "totalTokenCount": 4},
}
BAD = json_response(500, {"type": "error", "error": {"type": "api_error", "message": "scripted"}})


def answer(request: Request) -> Script:
    """Answer as Anthropic or Gemini would, streamed or not."""
    if "streamGenerateContent" in request.target:
        return sse_response([b"data: " + json.dumps(CONTENT).encode() + b"\n\n"])
    if "generateContent" in request.target:
        return json_response(200, CONTENT)
    return json_response(200, MESSAGE)


class FromEnvironment(Gateway):
    """A gateway without a file."""

    def serve_command(self) -> list[str]:
        return [*self.program, "serve"]

    @property
    def port(self) -> int:
        return int(self._env["FASTROUTE_PORT"])

    @property
    def state_dir(self) -> str:
        return str(self._env["FASTROUTE_STATE_DIR"])


@pytest.fixture
def server() -> Iterator[KeyServer]:
    with KeyServer(*CLAUDE, *GEMINI, default=answer) as made:
        yield made


@contextmanager
def running(server: KeyServer, directory: Path, strategy: str = "round-robin", **more: str) -> Iterator[Gateway]:
    env: dict[str, str | None] = {
        "LOAD_BALANCER_ENABLED": "true",
        "LOAD_BALANCER_API_KEYS": ",".join([*CLAUDE, *GEMINI]),
        "LOAD_BALANCER_STRATEGY": strategy,
        "LOAD_BALANCER_WINDOW_SIZE": "5",
        "ANTHROPIC_BASE_URL": server.upstream.url,
        "GOOGLE_GEMINI_BASE_URL": server.upstream.url,
        "FASTROUTE_UUID": UUID,
        "FASTROUTE_PORT": str(two_free_ports_in_a_row()),
        "FASTROUTE_WORKERS": str(WORKERS),
        "FASTROUTE_STATE_DIR": str(directory / "state"),
        "FASTROUTE_ADMIN_KEY": "admin",
        **more,
    }
    with FromEnvironment({}, directory, env=env) as gateway:
        yield gateway
    assert "Traceback" not in gateway.log
    assert UUID not in gateway.log
    assert not any(key in gateway.log for key in server.keys)


def call(
    gateway: Gateway, method: str, path: str, document: object = None, headers: Mapping[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    link = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    try:
        body = None if document is None else json.dumps(document).encode()
        fields = {"content-type": "application/json"} if body is not None else {}
        link.request(method, path, body, {**fields, **(headers or {})})
        response = link.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        link.close()


def asked(gateway: Gateway, what: str, method: str = "GET") -> Any:
    status, headers, body = call(gateway, method, f"/{UUID}/lb/v1/load-balancer/{what}")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert not any(key.encode() in body for key in (*CLAUDE, *GEMINI, UUID))
    document = json.loads(body)
    assert list(document) == ["loadBalancer"]
    return document["loadBalancer"]


# === Paths ===


def test_both_dialects_by_all_keys_and_by_the_first(server: KeyServer, tmp_path: Path) -> None:
    with running(server, tmp_path) as gateway:
        for _ in range(24):
            status, headers, body = call(gateway, "POST", f"/{UUID}/lb/v1/messages", ASK)
            assert (status, json.loads(body)) == (200, MESSAGE)
            assert headers["x-fastroute-strategy"] == "round_robin"
        assert set(server.counts()) == set(CLAUDE)
        since = len(server.arrivals)
        for _ in range(24):
            path = f"/{UUID}/lb/v1beta/models/gemini-2.0-flash:generateContent"
            assert call(gateway, "POST", path, GEMINI_ASK)[0] == 200
        assert set(server.counts(since)) == set(GEMINI)
        since = len(server.arrivals)
        for _ in range(12):
            assert call(gateway, "POST", f"/{UUID}/v1/messages", ASK)[0] == 200
            path = f"/{UUID}/v1beta/models/gemini-2.0-flash:streamGenerateContent?alt=sse"
            status, headers, body = call(gateway, "POST", path, GEMINI_ASK)
            assert (status, headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
            assert b'"hi"' in body
        assert server.counts(since) == {CLAUDE[0]: 12, GEMINI[0]: 12}
        # Model lists and counts are there too, and nothing of the token goes upstream.
        assert call(gateway, "GET", f"/{UUID}/lb/v1/models")[0] == 200
        assert call(gateway, "POST", f"/{UUID}/lb/v1/messages/count_tokens", ASK)[0] == 200
        assert not any(UUID.encode() in request.raw for request in server.upstream.requests)
        # By what name it stands in the ledger.
        assert {record["key_id"] for record in gateway.records()} == {"path-token-1"}


def test_the_sdks_unmodified(server: KeyServer, tmp_path: Path) -> None:
    """Whatever key they have to be given is nobody's business."""
    with running(server, tmp_path) as gateway:
        for prefix, used in (("", {CLAUDE[0], GEMINI[0]}), ("/lb", {*CLAUDE, *GEMINI})):
            since = len(server.arrivals)
            base = f"{gateway.url}/{UUID}{prefix}"
            with anthropic.Anthropic(base_url=base, api_key="dummy", max_retries=0) as client:
                for _ in range(24):
                    assert client.messages.create(**ASK).content[0].text == "hi"  # type: ignore[union-attr]
            google = genai.Client(api_key="dummy", http_options={"base_url": base})
            for _ in range(12):
                assert google.models.generate_content(model="gemini-2.0-flash", contents="x").text == "hi"
                stream = google.models.generate_content_stream(model="gemini-2.0-flash", contents="x")
                assert "".join(part.text or "" for part in stream) == "hi"
            assert set(server.counts(since)) == used


def test_the_wrong_token_is_an_unknown_path(server: KeyServer, tmp_path: Path) -> None:
    """Status, body and header fields are those of a path that was never any.

    Whether the connection is kept depends on one thing: had the body come by the time that the answer went out?
    """
    varying = ("x-request-id", "date", "connection")
    rests = [
        "/v1/messages", "/lb/v1/messages", "/lb/v1beta/models/gemini-2.0-flash:generateContent", "/v1/models",
        "/lb/v1/load-balancer/status", "/lb/v1/load-balancer/reset", "/lb/nothing", "/",
    ]  # fmt: skip
    with running(server, tmp_path) as gateway:
        for rest in rests:
            for method, document in (("GET", None), ("POST", ASK), ("DELETE", None)):
                answers = []
                for first in (WRONG, "nothing-like-it", UUID.upper(), UUID + "x", UUID[:-1], f"%35{UUID[1:]}"):
                    for credential in ({}, {"x-api-key": "dummy"}):
                        status, headers, body = call(gateway, method, f"/{first}{rest}", document, credential)
                        told = {name: value for name, value in headers.items() if name not in varying}
                        answers.append((status, told, body))
                assert answers[0][0] == 404
                assert all(one == answers[0] for one in answers)
        # Nor does a path of its own answer without it: there is no anonymous caller beside it.
        assert call(gateway, "POST", "/v1/messages", ASK)[0] == 401
        assert call(gateway, "GET", "/v1/load-balancer/status")[0] == 404
        assert call(gateway, "GET", f"/{UUID}/v1/load-balancer/status")[0] == 404
        assert call(gateway, "POST", f"/{UUID}/lb/v1/load-balancer/status")[0] == 405
    assert server.arrivals == []


def test_a_file_has_several_tokens_and_none_is_ever_written(server: KeyServer, tmp_path: Path) -> None:
    """Beside keys, which go on as they were. Neither log, error, ledger nor provider sees one."""
    log = tmp_path / "access.log"
    config = {
        "server": {"workers": WORKERS, "access_log": str(log)},
        "auth": {"path_tokens": [UUID, "second-token"], "keys": [{"id": "app", "key": "sk-app"}]},
        "providers": [server.provider("round_robin", keys=list(CLAUDE))],
    }
    chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    with Gateway(config, tmp_path) as gateway:
        for token, prefix in ((UUID, ""), (UUID, "/lb"), ("second-token", "/lb")):
            for model, status in (("m", 200), ("unknown", 404)):
                path = f"/{token}{prefix}/v1/chat/completions"
                assert call(gateway, "POST", path, {**chat, "model": model})[0] == status
            assert call(gateway, "POST", f"/{token}{prefix}/v1/nothing", chat)[0] == 404
        bearer = {"authorization": "Bearer sk-app"}
        assert call(gateway, "POST", "/v1/chat/completions", chat, bearer)[0] == 200
        assert call(gateway, "POST", "/v1/chat/completions", chat)[0] == 401
        assert Counter(record["key_id"] for record in gateway.records()) == {
            "path-token-1": 2, "path-token-2": 1, "app": 1,
        }  # fmt: skip
    written = gateway.log + log.read_text()
    written += "".join(
        path.read_bytes().decode("latin-1") for path in (tmp_path / "state").rglob("*") if path.is_file()
    )
    for secret in (UUID, "second-token", *server.keys):
        assert secret not in written
    assert not any(b"second-token" in request.raw for request in server.upstream.requests)
    assert len(log.read_text().splitlines()) == 11


# === What is told of the keys ===


def test_status_config_and_reset_are_those_of_its_documentation(server: KeyServer, tmp_path: Path) -> None:
    server.plays[CLAUDE[1]] = BAD
    keys = f"{CLAUDE[0]}:1,{CLAUDE[1]}:2,{CLAUDE[2]}"
    with running(server, tmp_path, LOAD_BALANCER_API_KEYS=keys) as gateway:
        empty = asked(gateway, "status")
        masks = ["sk-a\u20267890", "sk-a\u20266789", "sk-t\u2026abcd"]
        nothing = {"requests": 0, "failures": 0, "lastUsed": 0}
        stats = {"totalRequests": 0, "successfulRequests": 0, "failedRequests": 0, "lastUsed": 0}
        assert empty == {
            "enabled": True, "activeKeys": 3, "totalKeys": 3, "strategy": "round-robin",
            "stats": {**stats, "apiKeyStats": dict.fromkeys(masks, nothing)},
        }  # fmt: skip
        for _ in range(40):
            assert call(gateway, "POST", f"/{UUID}/lb/v1/messages", ASK)[0] == 200
        gateway.wait_idle()
        counts = server.counts()
        told = asked(gateway, "status")
        assert told["activeKeys"] == 2
        totals = told["stats"]
        assert totals["totalRequests"] == sum(counts.values()) == 40 + counts[CLAUDE[1]]
        assert (totals["successfulRequests"], totals["failedRequests"]) == (40, counts[CLAUDE[1]])
        by_key = totals["apiKeyStats"]
        assert [by_key[mask]["requests"] for mask in masks] == [counts[key] for key in CLAUDE]
        assert [by_key[mask]["failures"] for mask in masks] == [0, counts[CLAUDE[1]], 0]
        assert totals["lastUsed"] == max(one["lastUsed"] for one in by_key.values()) > 1_700_000_000_000
        assert asked(gateway, "config") == {
            "enabled": True, "strategy": "round-robin", "windowSize": 5, "totalKeys": 3,
            "apiKeys": [
                {"key": masks[0], "weight": 1, "provider": "anthropic", "isActive": True},
                {"key": masks[1], "weight": 2, "provider": "anthropic", "isActive": False},
                {"key": masks[2], "weight": 1, "provider": "anthropic", "isActive": True},
            ],
        }  # fmt: skip
        # For all workers, whichever is asked.
        after = asked(gateway, "reset", "POST")
        assert after["stats"] == empty["stats"]
        assert [asked(gateway, "status")["stats"] for _ in range(20)] == [empty["stats"]] * 20
        assert call(gateway, "POST", f"/{UUID}/lb/v1/messages", ASK)[0] == 200
        gateway.wait_idle()
        assert asked(gateway, "status")["stats"]["totalRequests"] == 1


def test_counts_and_turns_outlive_a_restart(server: KeyServer, tmp_path: Path) -> None:
    keys = ",".join(CLAUDE)
    with running(server, tmp_path, "time-window", LOAD_BALANCER_API_KEYS=keys) as gateway:
        for _ in range(7):
            assert call(gateway, "POST", f"/{UUID}/lb/v1/messages", ASK)[0] == 200
        gateway.wait_idle()
        before = asked(gateway, "status")
        assert before["stats"]["totalRequests"] == 7
    with running(server, tmp_path, "time-window", LOAD_BALANCER_API_KEYS=keys) as gateway:
        assert asked(gateway, "status") == before
        for _ in range(2):
            assert call(gateway, "POST", f"/{UUID}/lb/v1/messages", ASK)[0] == 200
        gateway.wait_idle()
        assert asked(gateway, "status")["stats"]["totalRequests"] == 9
        asked(gateway, "reset", "POST")
    order = [arrival.name for arrival in server.arrivals]
    assert order == order[:3] * 3
    # What was begun anew stays so.
    with running(server, tmp_path, "time-window", LOAD_BALANCER_API_KEYS=keys) as gateway:
        assert asked(gateway, "status")["stats"]["totalRequests"] == 0


def test_counts_outlive_a_kill(server: KeyServer, tmp_path: Path) -> None:
    """What has been saved by then is there again; it is saved every few seconds."""
    keys = ",".join(CLAUDE)
    with running(server, tmp_path, LOAD_BALANCER_API_KEYS=keys) as gateway:
        for _ in range(7):
            assert call(gateway, "POST", f"/{UUID}/lb/v1/messages", ASK)[0] == 200
        gateway.wait_idle()
        before = asked(gateway, "status")
        saved = Path(gateway.state_dir) / "learnt.json"
        wait_until(lambda: saved.exists() and kept_requests(saved) == 7, 30)
        gateway.kill()
        gateway.start()
        assert asked(gateway, "status") == before
        assert call(gateway, "POST", f"/{UUID}/lb/v1/messages", ASK)[0] == 200
        gateway.wait_idle()
        assert asked(gateway, "status")["stats"]["totalRequests"] == 8


def kept_requests(file: Path) -> int:
    """Return of how many requests it is known over a restart with which key they were sent."""
    return sum(row["cells"].get("requests", [0])[0] for row in json.loads(file.read_bytes())["rows"])


def test_time_window_and_weights_out_of_the_environment(server: KeyServer, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with running(server, tmp_path / "a", "time-window", LOAD_BALANCER_API_KEYS=",".join(CLAUDE)) as gateway:
        for _ in range(30):
            assert call(gateway, "POST", f"/{UUID}/lb/v1/messages", ASK)[0] == 200
        order = [arrival.name for arrival in server.arrivals]
        assert order == order[:3] * 10
        assert asked(gateway, "config")["strategy"] == "time-window"
    since = len(server.arrivals)
    (tmp_path / "b").mkdir()
    keys = f"{CLAUDE[0]}:1,{CLAUDE[1]}:3,{CLAUDE[2]}:2"
    with running(server, tmp_path / "b", "weighted", LOAD_BALANCER_API_KEYS=keys) as gateway:
        for _ in range(120):
            assert call(gateway, "POST", f"/{UUID}/lb/v1/messages", ASK)[0] == 200
        counts = server.counts(since)
        for key, share in zip(CLAUDE, (20, 60, 40), strict=True):
            assert abs(counts[key] - share) <= 3 * WORKERS


def test_bad_variables_are_refused_by_place(server: KeyServer, tmp_path: Path) -> None:
    env = {"LOAD_BALANCER_ENABLED": "true", "LOAD_BALANCER_API_KEYS": f"{CLAUDE[0]}:0,{CLAUDE[1]},{CLAUDE[1]}:2"}
    gateway = FromEnvironment({}, tmp_path, env={**env, "FASTROUTE_STATE_DIR": str(tmp_path / "s")})
    done = gateway.command("serve")
    assert done.returncode == 2
    assert [line.partition(": ")[2][:31] for line in done.stderr.splitlines()] == [
        "LOAD_BALANCER_API_KEYS: entry 1",
        "LOAD_BALANCER_API_KEYS: entry 3",
    ]
    assert not any(key in done.stderr + done.stdout for key in CLAUDE)
    assert not os.path.exists(tmp_path / "s")


def test_a_token_goes_with_the_configuration(server: KeyServer, tmp_path: Path) -> None:
    provider = server.provider("round_robin", keys=list(CLAUDE))
    config = {"auth": {"path_tokens": [UUID]}, "providers": [provider], "server": {"workers": WORKERS}}
    chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    with Gateway(config, tmp_path) as gateway:
        assert call(gateway, "POST", f"/{UUID}/lb/v1/chat/completions", chat)[0] == 200
        gateway.wait_idle()
        before = asked(gateway, "status")["stats"]
        gateway.write_config({**gateway.config, "auth": {"path_tokens": ["another", UUID[::-1]]}})
        gateway.reload()
        wait_until(lambda: gateway.log.count("configuration 2 is in force") == WORKERS)
        assert call(gateway, "POST", f"/{UUID}/lb/v1/chat/completions", chat)[0] == 404
        # What was counted is not the token's.
        status, _, body = call(gateway, "GET", "/another/lb/v1/load-balancer/status")
        assert (status, json.loads(body)["loadBalancer"]["stats"]) == (200, before)


def test_what_is_printed_at_the_start_works_and_shows_no_token(server: KeyServer, tmp_path: Path) -> None:
    with running(server, tmp_path) as gateway:
        wait_until(lambda: "try it:" in gateway.log)
        line = gateway.log.partition("try it:\n")[2].splitlines()[0]
        assert "$FASTROUTE_UUID/lb/v1/messages" in line
        assert "whoever can reach this address" not in gateway.log
        environment = {"FASTROUTE_UUID": UUID, "PATH": os.environ["PATH"]}
        done = subprocess.run(["sh", "-c", line.strip()], env=environment, capture_output=True, timeout=20, check=True)
        assert json.loads(done.stdout) == MESSAGE
