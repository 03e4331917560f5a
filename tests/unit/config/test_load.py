"""Files as they come: missing, huge, broken, and large but good."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastroute.config import Config, load_file, not_in_force, refuse_open, with_overrides
from fastroute.config.load import MAX_FILE_BYTES
from fastroute.errors import ConfigError
from tests.unit.config.helpers import check_text, echo_with, faults, load

NAMES = ["c.yaml", "c.yml", "c.json", "c.toml"]


@pytest.mark.parametrize("name", NAMES)
def test_missing(tmp_path: Path, name: str) -> None:
    path = str(tmp_path / name)
    assert check_text(path, {}) == [f"{path}:1: (file): cannot be read: No such file or directory"]


def test_directories_and_other_files(tmp_path: Path) -> None:
    (tmp_path / "d.yaml").mkdir()
    os.mkfifo(tmp_path / "f.yaml")
    for name in ("d.yaml", "f.yaml"):
        assert check_text(str(tmp_path / name), {})[0].endswith(":1: (file): is not a regular file")
    assert check_text("a\0b.yaml", {}) == ["a\0b.yaml:1: (file): cannot be read: no such file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.touch(mode=0)
    assert check_text(str(path), {})[0].endswith("cannot be read: Permission denied")


@pytest.mark.parametrize("name", ["c.conf", "c", "c.yaml.bak"])
def test_extension(tmp_path: Path, name: str) -> None:
    assert faults(tmp_path, "a: 1", name=name) == [
        f"{name}:1: (file): the file name must end in .yaml, .yml, .toml or .json"
    ]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", ["", "\n \n", "\ufeff"])
def test_empty(tmp_path: Path, name: str, text: str) -> None:
    assert faults(tmp_path, text, name=name) == [f"{name}:1: (file): is empty"]


@pytest.mark.parametrize(
    ("name", "text"), [("c.yaml", "- a\n"), ("c.json", "[]"), ("c.yaml", "just text"), ("c.json", "5")]
)
def test_not_a_mapping(tmp_path: Path, name: str, text: str) -> None:
    (fault,) = faults(tmp_path, text, name=name)
    assert fault.startswith(f"{name}:1: (file): expected a mapping, not a")


@pytest.mark.parametrize("name", NAMES)
def test_not_utf8(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"# one\n# two \xff\n")
    assert check_text(str(path), {}) == [f"{path}:2: (file): is not UTF-8"]


def test_too_large(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    assert check_text(str(path), {}) == [f"{path}:1: (file): is larger than 16 MiB"]


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    assert load(tmp_path, "\ufeff" + echo_with("server: {port: 1}")).server.port == 1


@pytest.mark.parametrize("name", NAMES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(data=st.one_of(st.binary(max_size=80), st.text(alphabet="[]{}:,-&*!|>'\"#=\n \t${}abc1.e", max_size=80)))
def test_no_file_makes_a_traceback(tmp_path: Path, name: str, data: bytes | str) -> None:
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    assert check_text(str(path), {})  # nothing this short is a whole configuration


PLAIN = {
    "server": {"port": 9000, "admin": {"key": "adm-1234"}},
    "auth": {"keys": [{"id": "a", "key": "k", "limits": {"rpm": 5}, "budget": {"usd": 1.25, "per": "day"}}]},
    "providers": [
        {
            "id": "p",
            "type": "mistral",
            "keys": ["x", {"key": "y", "weight": 3}],
            "models": ["m", {"name": "n*", "weight": 2}],
        }
    ],
    "aliases": {"gpt-4.1": "m"},
    "routes": [{"model": "m", "tiers": [["p"]]}],
}
TOML = """
aliases = {"gpt-4.1" = "m"}
[server]
port = 9000
admin = {key = "adm-1234"}
[[auth.keys]]
id = "a"
key = "k"
limits.rpm = 5
budget = {usd = 1.25, per = "day"}
[[providers]]
id = "p"
type = "mistral"
keys = ["x", {key = "y", weight = 3}]
models = ["m", {name = "n*", weight = 2}]
[[routes]]
model = "m"
tiers = [["p"]]
"""


def test_all_formats_say_the_same(tmp_path: Path) -> None:
    expected = load(tmp_path, json.dumps(PLAIN, indent="\t"), name="c.json")
    assert load(tmp_path, json.dumps(PLAIN), name="c.yaml") == expected
    assert load(tmp_path, TOML, name="c.toml") == expected
    assert expected.providers[0].base_url == "https://api.mistral.ai/v1"
    assert expected.providers[0].include_usage is False


def large() -> dict[str, object]:
    models = [
        {
            "name": f"model-{at}",
            "upstream": f"up-{at}",
            "price": {"input_usd_per_mtok": at / 100, "output_usd_per_mtok": 1},
        }
        for at in range(10_000)
    ]
    providers = [{"id": f"p{at}", "type": "echo", "models": models[at::10]} for at in range(10)]
    keys = [{"id": f"key-{at}", "key": f"sk-{at}", "tenant": f"t-{at % 50}"} for at in range(1000)]
    aliases = {f"alias-{at}": f"model-{at}" for at in range(1000)}
    routes = [{"model": f"model-{at}", "tiers": [[f"p{at % 10}"]]} for at in range(1000)]
    return {"auth": {"keys": keys}, "providers": providers, "aliases": aliases, "routes": routes}


def test_a_large_configuration_loads(tmp_path: Path) -> None:
    config = load(tmp_path, json.dumps(large(), indent=1), name="c.json")
    assert sum(len(provider.models) for provider in config.providers) == 10_000
    assert len(config.auth.keys) == 1000
    assert load(tmp_path, json.dumps(large(), indent=1), name="c.yaml") == config


def test_thousands_of_faults_are_all_found(tmp_path: Path) -> None:
    text = json.dumps(large() | {"aliases": {f"alias-{at}": f"modle-{at}" for at in range(3000)}})
    assert len(faults(tmp_path, text, name="c.json")) == 1001


# -- what the command line does with a Config --


def test_overrides(tmp_path: Path) -> None:
    config = load(tmp_path, echo_with("server: {port: 9000, workers: 2}"))
    changed = with_overrides(config, host="::1", port=0, workers=4, state_dir="/a$b")
    assert (changed.server.host, changed.server.port, changed.server.workers) == ("::1", 0, 4)
    assert (changed.server.state_dir, changed.server.admin_port) == ("/a$b", 0)
    assert {"server.host", "server.workers"} <= changed.given
    assert changed.providers == config.providers
    assert with_overrides(config) == config


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"port": 70000}, "command line: server.port: must be from 0 to 65535"),
        ({"workers": 0}, "command line: server.workers: must be from 1 to 256"),
        ({"host": "a b"},
         "command line: server.host: must be an IP address or a host name, without scheme, brackets or port"),
        ({"host": ""}, "command line: server.host: must not be empty"),
        ({"port": 9001}, "command line: server.admin.port: must differ from server.port"),
        ({"state_dir": ""}, "command line: server.state_dir: must not be empty"),
    ],
)  # fmt: skip
def test_bad_overrides(tmp_path: Path, given: dict[str, int | str], expected: str) -> None:
    config = load(tmp_path, echo_with("server: {admin: {port: 9001}}"))
    with pytest.raises(ConfigError) as error:
        with_overrides(config, **given)  # type: ignore[arg-type]
    assert error.value.faults == [expected]


@pytest.mark.parametrize(
    ("server", "keys", "refused"),
    [
        ("{}", False, False), ("{host: localhost}", False, False), ("{host: '::1'}", False, False),
        ("{host: 0.0.0.0}", False, True), ("{host: '::'}", False, True), ("{host: gateway.local}", False, True),
        ("{host: 10.1.2.3}", False, True), ("{host: 0.0.0.0}", True, False),
        ("{admin: {host: 0.0.0.0}}", True, True), ("{admin: {host: 0.0.0.0, key: abc}}", True, False),
    ],
)  # fmt: skip
def test_refuse_open(tmp_path: Path, server: str, keys: bool, refused: bool) -> None:
    auth = "{keys: [{id: a, key: k}]}" if keys else "{}"
    message = refuse_open(load(tmp_path, echo_with(f"server: {server}\nauth: {auth}")))
    assert (message is not None) is refused
    if message is not None:
        assert message.startswith("refusing to ")


def test_nothing_is_said_about_defaults(tmp_path: Path) -> None:
    assert not_in_force(load(tmp_path, echo_with("routing: {retry: {max_attempts: 2}}\nrules: []\ntenants:"))) == []
    assert not_in_force(Config()) == []


def test_fields_that_are_not_in_force(tmp_path: Path) -> None:
    text = echo_with("""\
server: {lane: granian, limits: {write_timeout_ms: 5000, min_body_rate_bytes_s: 0, max_headers: 50}}
auth: {path_tokens: [abc], keys: [{id: a, key: k, budget: {usd: 5}}]}
tenants: [{id: t, budget: {usd: 1}}]""")
    found = not_in_force(load(tmp_path, text))
    assert [line.split(": ")[0] for line in found] == [
        "server.limits.min_body_rate_bytes_s", "server.limits.write_timeout_ms",
        "tenants.budget", "auth.keys.budget",
    ]  # fmt: skip
    assert all(line.endswith("but not in force with server.lane: granian") for line in found[:2])
    assert all(line.endswith(": accepted, but not in force in this version") for line in found[2:])
    assert not_in_force(load(tmp_path, text.replace("lane: granian, ", ""))) == found[2:]


def test_the_routing_system_is_in_force(tmp_path: Path) -> None:
    text = echo_with("""\
routing: {strategy: adaptive, breaker: {failure_threshold: 5}, retry: {backoff: {base_ms: 100}}}
routes: [{model: m1, tiers: [[echo]], strategy: prefix}]
rules: [{id: r, then: {strategy: random}}]
tenants: [{id: t, strategy: time_window}]""")
    assert not_in_force(load(tmp_path, text)) == []


def test_limits_are_in_force(tmp_path: Path) -> None:
    text = """\
auth: {keys: [{id: a, key: k, tenant: t, limits: {rpm: 1, tpm: 2, concurrency: 3, rpd: 4, tpd: 5}}]}
tenants: [{id: t, limits: {rpm: 1}}]
limits: {models: {m1: {rpd: 5}}, queue: {max: 5}}
providers: [{id: p, type: openai, keys: [{key: k, rpm: 1, tpm: 1, concurrency: 1, rpd: 1, tpd: 1}], models: [m1]}]"""
    assert not_in_force(load(tmp_path, text)) == []


def test_null_limits_need_no_warning(tmp_path: Path) -> None:
    assert not_in_force(load(tmp_path, echo_with("auth: {keys: [{id: a, key: k, limits: ~, budget: null}]}"))) == []


# -- defaults that depend on other fields --


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ("type: anthropic, keys: [k]", "https://api.anthropic.com"),
        ("type: anthropic, keys: [k], base_url: 'https://a/v1'", "https://a"),
        ("type: anthropic, keys: [k], base_url: 'https://a/x/v1/'", "https://a/x"),
        ("type: gemini, keys: [k]", "https://generativelanguage.googleapis.com"),
        ("type: gemini, keys: [k], base_url: 'https://a/v1beta'", "https://a"),
        ("type: openai, keys: [k], base_url: 'https://a/v1/'", "https://a/v1"),
        ("type: custom, dialect: anthropic, base_url: 'https://a/v1'", "https://a"),
        ("type: custom, base_url: 'https://a/v1'", "https://a/v1"),
        ("type: ollama", "http://127.0.0.1:11434/v1"),
        ("type: echo", ""),
    ],
)
def test_base_urls_are_canonical(tmp_path: Path, fields: str, url: str) -> None:
    config = load(tmp_path, f"providers: [{{id: p, models: [m], {fields}}}]")
    assert config.providers[0].base_url == url
    assert with_overrides(config, port=1) == with_overrides(config, port=1)


def test_timeouts_of_a_provider_follow_those_of_routing(tmp_path: Path) -> None:
    text = """\
routing: {timeouts: {connect_ms: 1, idle_ms: 2}}
providers:
  - {id: a, type: echo, models: [m], timeouts: {idle_ms: 9}}
  - {id: b, type: echo, models: [m]}
"""
    first, second = load(tmp_path, text).providers
    assert first.timeouts is not None
    assert (first.timeouts.connect_ms, first.timeouts.idle_ms, first.timeouts.total_ms) == (1, 9, 600_000)
    assert second.timeouts is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("type: openai, keys: [k]", True), ("type: mistral, keys: [k]", False),
        ("type: mistral, keys: [k], include_usage: true", True),
        ("type: openai, keys: [k], include_usage: false", False),
        ("type: anthropic, keys: [k]", False), ("type: custom, base_url: 'http://a'", True),
        ("type: custom, dialect: gemini, base_url: 'http://a'", False),
    ],
)  # fmt: skip
def test_include_usage(tmp_path: Path, fields: str, expected: bool) -> None:
    config = load(tmp_path, f"providers: [{{id: p, models: [m], {fields}}}]")
    assert config.providers[0].include_usage is expected


def test_the_environment_of_the_process_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTROUTE_TEST_PORT", "7")
    path = tmp_path / "c.yaml"
    path.write_text(echo_with('server: {port: "${FASTROUTE_TEST_PORT}"}'))
    assert check_text(str(path)) == []
    assert check_text(str(path), {}) != []
    assert load_file(str(path), os.environ).server.port == 7
