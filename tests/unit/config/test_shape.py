"""Names, types and bounds: every fault at once, on its line, without showing what is secret."""

from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from fastroute.config import Config, Provider, Secret
from fastroute.config.secret import decode_secret
from tests.unit.config.helpers import ECHO, echo_with, faults, load


def test_every_fault_is_reported_at_once(tmp_path: Path) -> None:
    text = """\
server:
  port: 70000
  wrokers: 2
  workers: two
auth:
  keys:
    - {id: "a b", key: 12}
    - {id: ok}
providers:
  - id: p
    type: echo
    models: [{name: m, weight: 1001}, {upstream: x}]
    wieght: 5
  - type: opena
    models: m
zzz: 1
"""
    assert faults(tmp_path, text) == [
        "c.yaml:2: server.port: must be from 0 to 65535",
        "c.yaml:3: server.wrokers: unknown field 'wrokers', did you mean 'workers'?",
        "c.yaml:4: server.workers: expected an integer, not a string",
        "c.yaml:7: auth.keys[0].id: must be 1 to 64 of the characters A-Z a-z 0-9 . _ -",
        "c.yaml:7: auth.keys[0].key: expected a string, not an integer: put it in quotes",
        "c.yaml:8: auth.keys[1]: needs exactly one of 'key' and 'key_sha256'",
        "c.yaml:12: providers[0].models[0].weight: must be from 0 to 1000",
        "c.yaml:12: providers[0].models[1].name: is required",
        "c.yaml:13: providers[0].wieght: unknown field 'wieght', did you mean 'weight'?",
        "c.yaml:14: providers[1].id: is required",
        "c.yaml:14: providers[1].type: unknown type 'opena', did you mean 'openai'?",
        "c.yaml:15: providers[1].models: expected a list, not a string",
        "c.yaml:16: zzz: unknown field 'zzz' (known here: server, auth, providers, aliases, routes, routing, "
        "rules, tenants, limits)",
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.json", '{"server": {"port": -1,\n"x": 1},\n"providers": [{"id": "e", "type": "echo",\n"models": 5}]}'),
        ("c.toml", '[server]\nport = -1\nx = 1\n[[providers]]\nid = "e"\ntype = "echo"\nmodels = 5\n'),
    ],
)
def test_other_formats_have_lines_too(tmp_path: Path, name: str, text: str) -> None:
    found = faults(tmp_path, text, name=name)
    where = {"c.json": (1, 2, 4), "c.toml": (2, 3, 7)}[name]
    assert [int(line.split(":")[1]) for line in found] == list(where)
    assert [line.split(": ")[1] for line in found] == ["server.port", "server.x", "providers[0].models"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("port", "-1", "must be from 0 to 65535"),
        ("port", "65536", "must be from 0 to 65535"),
        ("port", "80.5", "expected an integer, not a number"),
        ("port", "'80'", "expected an integer, not a string"),
        ("port", "true", "expected an integer, not a boolean"),
        ("port", "~", "expected an integer, not null"),
        ("port", "[80]", "expected an integer, not a list"),
        ("port", "9" * 400, "has more than 64 digits"),
        ("workers", "0", "must be from 1 to 256"),
        ("workers", "257", "must be from 1 to 256"),
        ("workers", ".inf", "expected an integer, not a number"),
        ("backlog", "0", "must be from 1 to 65535"),
        ("host", "''", "must not be empty"),
        ("host", "5", "expected a string, not an integer: put it in quotes"),
        ("host", '"a\\0b"', "holds a character that is not text"),
        ("state_dir", "{}", "expected a string, not a mapping"),
        ("limits", "[]", "expected a mapping, not a list"),
        ("limits", "{max_body_bytes: 1073741825}", "must be from 1024 to 1073741824"),
        ("limits", "{header_timeout_ms: 0}", "must be from 1 to 86400000"),
        ("drain", "{grace_ms: -1}", "must be from 0 to 3600000"),
    ],
)
def test_bounds_and_types(tmp_path: Path, field: str, value: str, message: str) -> None:
    (fault,) = faults(tmp_path, echo_with(f"server: {{{field}: {value}}}"))
    assert fault.startswith("c.yaml:1: server.")
    assert fault.endswith(f": {message}")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (".nan", "must be a finite number"),
        (".inf", "must be a finite number"),
        ("1e999999999", "must be a finite number"),
        ("0.5", "must be from 1 to 100"),
        ("101", "must be from 1 to 100"),
        ("no", "expected a number, not a string"),
    ],
)
def test_floats(tmp_path: Path, value: str, message: str) -> None:
    text = echo_with(f"routing: {{retry: {{backoff: {{multiplier: {value}}}}}}}")
    assert faults(tmp_path, text) == [f"c.yaml:1: routing.retry.backoff.multiplier: {message}"]


@pytest.mark.parametrize(("name", "value"), [("c.json", "NaN"), ("c.json", "-Infinity"), ("c.toml", "nan")])
def test_not_a_number_in_other_formats(tmp_path: Path, name: str, value: str) -> None:
    if name == "c.json":
        price = f'"price": {{"input_usd_per_mtok": {value}}}'
        text = f'{{"providers": [{{"id": "e", "type": "echo", "models": [{{"name": "m", {price}}}]}}]}}'
    else:
        price = f"price = {{input_usd_per_mtok = {value}}}"
        text = f'[[providers]]\nid = "e"\ntype = "echo"\nmodels = [{{name = "m", {price}}}]'
    (fault,) = faults(tmp_path, text, name=name)
    assert fault.endswith("providers[0].models[0].price.input_usd_per_mtok: must be a finite number")


def price_of(tmp_path: Path, text: str, env: dict[str, str] | None = None) -> Decimal | None:
    provider = f"{{id: e, type: echo, models: [{{name: m, price: {{input_usd_per_mtok: {text}}}}}]}}"
    price = load(tmp_path, f"providers: [{provider}]", env).providers[0].models[0].price
    assert price is not None
    return price.input_usd_per_mtok


@pytest.mark.parametrize("text", ["0", "2.50", "0.1", "0.000001", "1e-6", "1000000", "0.30000000000000"])
def test_prices_keep_their_text(tmp_path: Path, text: str) -> None:
    assert str(price_of(tmp_path, text)) == str(Decimal(text))


@pytest.mark.parametrize("name", ["c.json", "c.toml", "c.yaml"])
def test_prices_never_pass_through_a_float(tmp_path: Path, name: str) -> None:
    digits = "123456.123456"
    text = {
        "c.json": f'{{"providers": [{{"id": "e", "type": "echo", "models": [{{"name": "m", "price": '
        f'{{"output_usd_per_mtok": {digits}}}}}]}}]}}',
        "c.toml": f'[[providers]]\nid="e"\ntype="echo"\nmodels=[{{name="m",price={{output_usd_per_mtok={digits}}}}}]',
        "c.yaml": "providers: [{id: e, type: echo, models: [{name: m, price: "
        f"{{output_usd_per_mtok: {digits}}}}}]}}]",
    }[name]
    price = load(tmp_path, text, name=name).providers[0].models[0].price
    assert price is not None
    assert price.output_usd_per_mtok == Decimal(digits)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-0.01", "must be from 0 to 1000000"),
        ("1000000.1", "must be from 0 to 1000000"),
        ("0.0000001", "has more than 6 decimal places"),
        ("1e-400", "must be a finite number"),
        ("'2.5'", "expected a number, not a string"),
        ("[]", "expected a string, not a list"),
    ],
)
def test_price_bounds(tmp_path: Path, text: str, message: str) -> None:
    provider = f"{{id: e, type: echo, models: [{{name: m, price: {{input_usd_per_mtok: {text}}}}}]}}"
    (fault,) = faults(tmp_path, f"providers: [{provider}]")
    assert fault.endswith(message.replace("a string, not a list", "a number, not a list"))


def test_values_from_the_environment_take_the_type_of_their_field(tmp_path: Path) -> None:
    env = {"PORT": " 9000 ", "PRICE": "2.50", "HTTP2": "True", "RATE": "1.5", "STATUS": "503"}
    text = """\
server: {port: "${PORT}", workers: "${WORKERS:-3}"}
routing: {retry: {backoff: {multiplier: "${RATE}"}}}
rules: [{id: r, then: {reject: {status: "${STATUS}"}}}]
providers:
  - {id: e, type: echo, transport: httpx, http2: "${HTTP2}",
     models: [{name: m, price: {input_usd_per_mtok: "${PRICE}"}}]}
"""
    config = load(tmp_path, text, env)
    assert (config.server.port, config.server.workers) == (9000, 3)
    assert config.providers[0].http2 is True
    assert config.routing.retry.backoff.multiplier == 1.5
    assert config.rules[0].then.reject is not None
    assert config.rules[0].then.reject.status == 503
    price = config.providers[0].models[0].price
    assert price is not None
    assert str(price.input_usd_per_mtok) == "2.50"


def test_values_from_the_environment_are_never_shown(tmp_path: Path) -> None:
    env = {name: "Le4ked" for name in "ABCDEFGHIJK"} | {"L": "xy", "BOTH": "twice-leaked"}
    text = """\
server: {host: "${A} ", port: "${A}", workers: "${L}"}
auth: {path_tokens: ["${A}/", "Le4ked"], keys: [{id: "${A}!", key: "${B}"}, {id: "${L}", key: "${B}"},
  {id: "${L}", key: z}]}
providers:
  - {id: "${C}", type: "${D}", keys: ["${E} x"], models: ["${F}", "${F}"], region: "${A}", dialect: "${A}"}
  - {id: "${C}", type: echo, models: [m], headers: {x-a: "${G}\\n"}, http2: "${A}"}
  - {id: q, type: custom, base_url: "${H}", models: [{name: n, price: {input_usd_per_mtok: "${I}"}}]}
aliases: {a: "${J}", b: "${BOTH}", twice-leaked: b, c: xyz}
routes: [{model: "${K}", strategy: "${A}", tiers: [["${A}z", Le4kee]]}]
rules: [{id: r, when: {tz: "${A}", hours: "${A}"}, then: {pool: ["${A}x"], priority: "${A}"}}]
tenants: [{id: t, strategy: "${A}", denied_providers: ["${A}y"]}]
"""
    found = faults(tmp_path, text, env)
    assert len(found) > 25
    for line in found:
        assert "Le4ked" not in line, line
        assert "twice-leaked" not in line, line
        assert "'xy'" not in line, line


def test_literal_secrets_are_never_shown(tmp_path: Path) -> None:
    text = """\
server: {admin: {key: "hunter2 hunter2"}}
auth: {path_tokens: ["hunter2/"], keys: [{id: a, key: "hunter2"}, {id: b, key: "hunter2"}, {id: c, key: "hunter2\\n"}]}
providers: [{id: o, type: openai, keys: ["hunter2", "hunter2", {key: hunter2, id: "hunter2 "}],
  headers: {x-k: "hunter2\\r"}, models: [m]}]
"""
    found = faults(tmp_path, text)
    assert len(found) == 8
    assert not any("hunter" in line for line in found)


def test_unset_variables_are_named(tmp_path: Path) -> None:
    assert faults(tmp_path, echo_with('server: {state_dir: "${NO_DIR}/x", host: "${"}')) == [
        "c.yaml:1: server.state_dir: environment variable NO_DIR is not set",
        "c.yaml:1: server.host: malformed reference: write ${NAME} or ${NAME:-default}, and $$ for a dollar sign",
    ]


def test_a_dollar_sign_is_written_twice(tmp_path: Path) -> None:
    assert load(tmp_path, echo_with('server: {state_dir: "/a$$b/$c"}')).server.state_dir == "/a$b/$c"


@pytest.mark.parametrize("name", ["c.yaml", "c.json"])
def test_repeated_keys(tmp_path: Path, name: str) -> None:
    provider = '{"id": "echo", "type": "echo", "models": ["m1"]}'
    text = '{"server": {"port": 1,\n"port": 2}, "aliases": {"a.b": "m1",\n"a.b": "m1"},\n'
    text += f'"providers": [{provider}],\n"server": {{}}}}'
    assert faults(tmp_path, text, name=name) == [
        f"{name}:2: server.port: key is set twice (first on line 1)",
        f'{name}:3: aliases["a.b"]: key is set twice (first on line 2)',
        f"{name}:5: server: key is set twice (first on line 1)",
    ]


def test_empty_sections_count_as_not_written(tmp_path: Path) -> None:
    config = load(tmp_path, echo_with("rules:\naliases:\nserver:\nrouting: {retry: }"))
    assert config.rules == ()
    assert "rules" not in config.given
    assert config.server == Config().server


def test_given_names_what_was_written(tmp_path: Path) -> None:
    config = load(tmp_path, echo_with("routing: {breaker: {failure_threshold: 5}}"))
    assert config.routing == Config().routing
    assert {"routing.breaker", "routing.breaker.failure_threshold", "providers.models"} <= config.given
    assert faults(tmp_path, echo_with("given: []"))[0].startswith("c.yaml:1: given: unknown field 'given'")


def test_shorthands(tmp_path: Path) -> None:
    text = "providers: [{id: o, type: openai, keys: [a, {key: b, id: k3}, c], models: [m, {name: n}]}]"
    provider = load(tmp_path, text).providers[0]
    assert [(key.id, key.key.reveal()) for key in provider.keys] == [("k1", "a"), ("k3", "b"), ("k4", "c")]
    assert [model.name for model in provider.models] == ["m", "n"]


def test_what_is_loaded_is_what_msgspec_would_build(tmp_path: Path) -> None:
    """The walk and msgspec agree on every type and bound of the schema."""

    def encode(value: object) -> object:
        assert isinstance(value, Secret)
        return value.reveal()

    text = """\
auth: {keys: [{id: a, key: k, budget: {usd: 1.5}}]}
providers: [{id: o, type: openai, keys: [x], models: [{name: m, price: {input_usd_per_mtok: 2.50}}], headers: {x-y: z}}]
aliases: {a: m}
rules: [{id: r, when: {not: {stream: true}}, then: {pool: [o]}}]
"""
    config = load(tmp_path, text)
    plain = msgspec.to_builtins(config, enc_hook=encode)
    assert msgspec.convert(plain, Config, dec_hook=decode_secret) == config


def test_structs_are_frozen_and_refuse_what_they_do_not_know() -> None:
    with pytest.raises(AttributeError):
        Config().server.port = 1  # type: ignore[misc]
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert({"id": "a", "type": "echo", "wieght": 1}, Provider)


def test_faults_are_bounded(tmp_path: Path) -> None:
    models = ", ".join("{}" for _ in range(3000))
    found = faults(tmp_path, f"providers: [{{id: e, type: echo, models: [{models}]}}]")
    assert len(found) == 1001
    assert found[-1] == "c.yaml:1: (file): 2000 more faults"


def test_faults_are_one_line_each(tmp_path: Path) -> None:
    found = faults(tmp_path, f'"a\\nb": 1\naliases: {{"x\\n": "m\\u2028"}}\nproviders: [{ECHO}]')
    assert found
    assert all(len(line.splitlines()) == 1 for line in found)
