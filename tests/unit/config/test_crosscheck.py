"""What one field means for another."""

from pathlib import Path

import pytest

from fastroute.config.crosscheck import is_loopback
from tests.unit.config.helpers import echo_with, faults, load

DIGEST = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"  # SHA-256 of "foo"


def custom(extra: str) -> str:
    return f"providers: [{{id: p, type: custom, models: [m], {extra}}}]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("admin: {port: 8080}", "server.admin.port: must differ from server.port"),
        ("port: 9000, admin: {port: 9000}", "server.admin.port: must differ from server.port"),
        ("port: 65535", "server.port: leaves no port above it for the admin listener: set server.admin.port"),
        ("admin: {key: ''}", "server.admin.key: must not be empty"),
        ("host: 'http://a'", "server.host: must be an IP address or a host name, without scheme, brackets or port"),
        ("host: '[::1]'", "server.host: must be an IP address or a host name, without scheme, brackets or port"),
        ("admin: {host: 'a b'}",
         "server.admin.host: must be an IP address or a host name, without scheme, brackets or port"),
    ],
)  # fmt: skip
def test_server(tmp_path: Path, text: str, expected: str) -> None:
    assert faults(tmp_path, echo_with(f"server: {{{text}}}")) == [f"c.yaml:1: {expected}"]


def test_admin_port(tmp_path: Path) -> None:
    for text, expected in [("port: 9000", 9001), ("port: 0", 0), ("admin: {port: 0}", 0), ("admin: {port: 1}", 1)]:
        assert load(tmp_path, echo_with(f"server: {{{text}}}")).server.admin_port == expected


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "127.0.0.2", "localhost", "gw_1.internal-net.", "fe80::1"])
def test_hosts(tmp_path: Path, host: str) -> None:
    assert load(tmp_path, echo_with(f'server: {{host: "{host}"}}')).server.host == host


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True), ("127.8.9.10", True), ("::1", True), ("localhost", True), ("LOCALHOST", True),
        ("::ffff:127.0.0.1", True), ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("localhost.evil", False),
        ("", False), ("127.1", False),
    ],
)  # fmt: skip
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("{id: a}", ["auth.keys[0]: needs exactly one of 'key' and 'key_sha256'"]),
        (f"{{id: a, key: x, key_sha256: '{DIGEST}'}}", ["auth.keys[0]: needs exactly one of 'key' and 'key_sha256'"]),
        ("{id: a, key_sha256: abc}", ["auth.keys[0].key_sha256: must be 64 hexadecimal digits"]),
        ("{id: a, key: x}, {id: a, key: y}", ["auth.keys[1].id: id 'a' is already used by auth.keys[0].id"]),
        ("{id: a, key: x}, {id: b, key: x}", ["auth.keys[1]: has the same secret as auth.keys[0]"]),
        (
            f"{{id: a, key: foo}}, {{id: b, key_sha256: '{DIGEST.upper()}'}}",
            ["auth.keys[1]: has the same secret as auth.keys[0]"],
        ),
        ("{id: a, key: ''}", ["auth.keys[0].key: must not be empty"]),
        ("{id: a, key: x, budget: {usd: -1}}", ["auth.keys[0].budget.usd: must be from 0 to 1000000000"]),
        ("{id: a, key: x, budget: {per: fortnight, usd: 1}}",
         ["auth.keys[0].budget.per: must be one of day, hour, minute, month, total, week"]),
        ("{id: a, key: x, limits: {rpm: 0}}", ["auth.keys[0].limits.rpm: must be from 1 to 1000000000000"]),
        ("{id: a, key: x, models: ['g p t']}", ["auth.keys[0].models[0]: must be 1 to 256 characters without spaces"]),
    ],
)  # fmt: skip
def test_auth(tmp_path: Path, keys: str, expected: list[str]) -> None:
    assert faults(tmp_path, echo_with(f"auth: {{keys: [{keys}]}}")) == [f"c.yaml:1: {line}" for line in expected]


def test_digests_are_lower_case(tmp_path: Path) -> None:
    config = load(tmp_path, echo_with(f"auth: {{keys: [{{id: a, key_sha256: {DIGEST.upper()}}}]}}"))
    assert config.auth.keys[0].key_sha256 == DIGEST


def test_path_tokens(tmp_path: Path) -> None:
    assert faults(tmp_path, echo_with("auth: {path_tokens: [abc, v1, a/b, abc]}")) == [
        "c.yaml:1: auth.path_tokens[1]: is a path of the gateway itself",
        "c.yaml:1: auth.path_tokens[2]: must be 1 to 128 of the characters A-Z a-z 0-9 . _ ~ -",
        "c.yaml:1: auth.path_tokens[3]: is the same as auth.path_tokens[0]",
    ]


@pytest.mark.parametrize("name", ["azure", "vertex", "bedrock", "sagemaker", "cohere"])
def test_types_that_are_not_supported(tmp_path: Path, name: str) -> None:
    text = f"providers: [{{id: p, type: {name}, models: [m]}}]"
    assert faults(tmp_path, text) == [f"c.yaml:1: providers[0].type: type '{name}' is not supported by this version"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("providers: []", "providers: at least one provider is needed"),
        ("aliases: {}", "providers: at least one provider is needed"),
        ("providers: [{id: p, type: echo}]", "providers[0].models: at least one model is needed"),
        ("providers: [{id: p, type: openai, models: [m]}]", "providers[0].keys: this type needs at least one key"),
        ("providers: [{id: p, type: groq, keys: [], models: [m]}]",
         "providers[0].keys: this type needs at least one key"),
        ("providers: [{id: p, type: vllm, models: [m]}]", "providers[0].base_url: is required for this type"),
        ("providers: [{id: p, type: custom, models: [m]}]", "providers[0].base_url: is required for this type"),
        ("providers: [{id: p, type: echo, base_url: 'http://a', models: [m]}]",
         "providers[0].base_url: this type has no upstream"),
        ("providers: [{id: p, type: openai, dialect: gemini, keys: [k], models: [m]}]",
         "providers[0].dialect: only type custom has a choice; this type speaks openai"),
        ("providers: [{id: p, type: echo, http2: true, models: [m]}]", "providers[0].http2: needs transport: httpx"),
        ("providers: [{id: p, type: echo, models: [m, m]}]",
         "providers[0].models[1]: is the same model as providers[0].models[0]"),
        ("providers: [{id: p, type: echo, models: [{name: m, upstream: 'x*'}]}]",
         "providers[0].models[0].upstream: must be one model, not a pattern"),
        ("providers: [{id: p, type: echo, models: [m]}, {id: p, type: echo, models: [n]}]",
         "providers[1].id: id 'p' is already used by providers[0].id"),
        ("providers: [{id: p, type: openai, keys: [a, a], models: [m]}]",
         "providers[0].keys[1]: has the same secret as providers[0].keys[0]"),
        ("providers: [{id: p, type: openai, keys: [{id: k, key: a}, {id: k, key: b}], models: [m]}]",
         "providers[0].keys[1].id: id 'k' is already used by providers[0].keys[0].id"),
        ("providers: [{id: p, type: echo, transport: curl, models: [m]}]",
         "providers[0].transport: must be one of fast, httpx"),
        ("providers: [{id: p, type: echo, weight: 1001, models: [m]}]", "providers[0].weight: must be from 0 to 1000"),
        ("providers: [{id: p, type: echo, timeouts: {idle_ms: 0}, models: [m]}]",
         "providers[0].timeouts.idle_ms: must be from 1 to 86400000"),
    ],
)  # fmt: skip
def test_providers(tmp_path: Path, text: str, expected: str) -> None:
    (fault,) = faults(tmp_path, text)
    assert fault.removeprefix("c.yaml:1: ") == expected


def test_one_model_may_be_sent_under_two_names(tmp_path: Path) -> None:
    text = "providers: [{id: p, type: echo, models: [{name: m, upstream: a}, {name: m, upstream: b}]}]"
    assert len(load(tmp_path, text).providers[0].models) == 2


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("api.openai.com/v1", "must begin with http:// or https:// and a host"),
        ("ftp://a/v1", "must begin with http:// or https:// and a host"),
        ("https:///v1", "must begin with http:// or https:// and a host"),
        ("https://u:secret@a/v1", "must not carry a user name or password: put credentials into keys"),
        ("https://a/v1?x=1", "must not have a query or fragment"),
        ("https://a/v1#x", "must not have a query or fragment"),
        ("https://a b/v1", "has a host, port or character that is not valid in a URL"),
        ("https://a/v 1", "has a host, port or character that is not valid in a URL"),
        ("https://a:0/v1", "has a host, port or character that is not valid in a URL"),
        ("https://a:99999/v1", "is not a URL"),
        ("https://[::1/v1", "is not a URL"),
        ("http://127.0.0.1:8080/v1", "points at this gateway itself: requests would go round in circles"),
        ("http://localhost:8080/v1", "points at this gateway itself: requests would go round in circles"),
    ],
)
def test_base_urls(tmp_path: Path, url: str, message: str) -> None:
    (fault,) = faults(tmp_path, custom(f'base_url: "{url}"'))
    assert fault == f"c.yaml:1: providers[0].base_url: {message}"


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/v1", "https://a.example/x/y", "http://[::1]:99", "http://10.0.0.1:8080"]
)
def test_good_base_urls(tmp_path: Path, url: str) -> None:
    assert load(tmp_path, custom(f'base_url: "{url}/"')).providers[0].base_url == url


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ("{X-Ok: 'a b', x-org: c}", []),
        ("{'x y': a}", ['["x y"]: is not a valid header name']),
        ("{'': a}", ['[""]: is not a valid header name']),
        ("{Authorization: a}",
         [".Authorization: must not be set here: the gateway sets or refuses this header itself"]),
        ("{host: a, Transfer-Encoding: b}", [
            ".host: must not be set here: the gateway sets or refuses this header itself",
            ".Transfer-Encoding: must not be set here: the gateway sets or refuses this header itself"]),
        ('{x-a: "a\\r\\nb: c"}',
         [".x-a: is not a valid header value: visible ASCII, spaces inside only, at most 8192 bytes"]),
        ("{x-a: ' a'}", [".x-a: is not a valid header value: visible ASCII, spaces inside only, at most 8192 bytes"]),
        ("{x-a: a, X-A: b}", [".X-A: is set twice (header names ignore case)"]),
        ("{x-a: 5}", [".x-a: expected a string, not an integer: put it in quotes"]),
        ("{" + ", ".join(f"x-{n}: a" for n in range(33)) + "}", [": at most 32 headers"]),
    ],
)  # fmt: skip
def test_headers(tmp_path: Path, headers: str, expected: list[str]) -> None:
    found = faults(tmp_path, custom(f"base_url: http://a, headers: {headers}"))
    assert [line.removeprefix("c.yaml:1: providers[0].headers") for line in found] == expected


def test_headers_are_secrets(tmp_path: Path) -> None:
    provider = load(tmp_path, custom("base_url: http://a, headers: {x-token: abcdef}")).providers[0]
    assert provider.headers["x-token"].reveal() == "abcdef"
    assert "abcdef" not in repr(provider)


def test_backoff(tmp_path: Path) -> None:
    text = echo_with(
        "routing: {retry: {max_attempts: 11, on_status: [399], backoff: {kind: x, base_ms: 9, max_ms: 8}}}"
    )
    assert [line.split(": ", 2)[1:] for line in faults(tmp_path, text)] == [
        ["routing.retry.max_attempts", "must be from 1 to 10"],
        ["routing.retry.on_status[0]", "must be from 400 to 599"],
        ["routing.retry.backoff.kind", "must be one of exponential, fibonacci, linear, none"],
        ["routing.retry.backoff.max_ms", "must not be less than base_ms"],
    ]


def test_no_more_regions_than_a_word_has_bits(tmp_path: Path) -> None:
    def document(count: int) -> str:
        lines = [f"- {{id: p{i}, type: echo, models: [m], region: r{i}}}" for i in range(count)]
        return "\n".join(["providers:", *lines, "- {id: q, type: echo, models: [m], region: r0}"])

    assert faults(tmp_path, document(62)) == []
    assert faults(tmp_path, document(63)) == ["c.yaml:64: providers[62].region: is a region too many: there may be 62"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("min: 5, max: 4", ["max: must not be less than min"]),
        ("min: 5, initial: 4", ["initial: must not be less than min"]),
        ("max: 5, initial: 6", ["initial: must not be greater than max"]),
        ("min: 5, max: 5, initial: 5", []),
    ],
)
def test_adaptive_limits(tmp_path: Path, text: str, expected: list[str]) -> None:
    found = faults(tmp_path, custom(f"base_url: 'http://127.0.0.1:9', adaptive: {{{text}}}"))
    assert [fault.partition("adaptive.")[2].partition(" (")[0] for fault in found] == expected
