"""Key pools out of `LOAD_BALANCER_*`: what they come to, and what is said of faults without a word of any key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute.config import from_environment
from fastroute.config.faults import Faults
from fastroute.config.load_balancer import MAX_KEYS, WeightedKey, read_keys
from fastroute.config.schema import Config
from fastroute.errors import ConfigError

SEED = "sk-1234567890abcdef:1,sk-abcdef1234567890:2,sk-fedcba0987654321:1"


def configured(keys: str = SEED, **more: str) -> Config:
    return from_environment({"LOAD_BALANCER_ENABLED": "true", "LOAD_BALANCER_API_KEYS": keys, **more})


def faults(keys: str = SEED, **more: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        configured(keys, **more)
    return error.value.faults


def test_the_example_of_its_documentation() -> None:
    config = configured(LOAD_BALANCER_STRATEGY="round-robin", LOAD_BALANCER_WINDOW_SIZE="5")
    [provider] = config.providers
    assert (provider.id, provider.type, provider.dialect) == ("anthropic", "anthropic", "anthropic")
    assert (provider.key_strategy, provider.key_window_ms) == ("round_robin", 300_000)
    assert [(key.id, key.key.reveal(), key.weight) for key in provider.keys] == [
        ("k1", "sk-1234567890abcdef", 1), ("k2", "sk-abcdef1234567890", 2), ("k3", "sk-fedcba0987654321", 1),
    ]  # fmt: skip
    assert [model.name for model in provider.models] == ["*"]
    # More than half of a small sample; back after one request; no sibling is used because it is down.
    breaker = config.routing.breaker
    assert breaker.failure_rate * 2 > 1
    assert (breaker.min_requests, breaker.success_threshold, breaker.panic_percent) == (6, 1, 0)


@pytest.mark.parametrize(
    ("written", "strategy"), [("", "round_robin"), ("time-window", "time_window"), ("weighted", "weighted")]
)
def test_strategies(written: str, strategy: str) -> None:
    [provider] = configured(LOAD_BALANCER_STRATEGY=written, LOAD_BALANCER_WINDOW_SIZE=" 90 ").providers
    assert (provider.key_strategy, provider.key_window_ms) == (strategy, 90 * 60_000)


def test_keys_find_their_provider_by_how_they_begin() -> None:
    keys = "AIza-1:2,sk-ant-1,whatever,AIza-2"
    owned = {one.id: [key.key.reveal() for key in one.keys] for one in configured(keys).providers}
    assert owned == {"gemini": ["AIza-1", "AIza-2"], "anthropic": ["sk-ant-1", "whatever"]}
    owned = {
        one.id: [key.key.reveal() for key in one.keys]
        for one in configured(keys, LOAD_BALANCER_PROVIDER="openai").providers
    }
    assert owned == {"gemini": ["AIza-1", "AIza-2"], "anthropic": ["sk-ant-1"], "openai": ["whatever"]}


def test_where_they_live_is_what_their_sdks_say() -> None:
    env = {"ANTHROPIC_BASE_URL": "http://127.0.0.1:9", "GOOGLE_GEMINI_BASE_URL": "http://127.0.0.1:8/"}
    assert {one.id: one.base_url for one in configured("AIza-1,sk-ant-1", **env).providers} == {
        "gemini": "http://127.0.0.1:8",
        "anthropic": "http://127.0.0.1:9",
    }


def test_beside_other_providers() -> None:
    """The pool has its keys from its own variable only; others are as without it."""
    config = configured("sk-ant-1,sk-ant-2", ANTHROPIC_API_KEY="sk-ant-3", OPENAI_API_KEY="o")
    assert [(one.id, len(one.keys), one.key_strategy) for one in config.providers] == [
        ("openai", 1, None),
        ("anthropic", 2, "round_robin"),
    ]


def test_the_token_of_its_paths() -> None:
    config = configured(FASTROUTE_UUID="11111111-2222-3333-4444-555555555555")
    assert [token.reveal() for token in config.auth.path_tokens] == ["11111111-2222-3333-4444-555555555555"]
    assert configured().auth.path_tokens == ()


@pytest.mark.parametrize("value", ["", "false", "0", "No", " off "])
def test_disabled_they_are_not_looked_at(value: str) -> None:
    env = {"LOAD_BALANCER_ENABLED": value, "LOAD_BALANCER_API_KEYS": ",,:", "LOAD_BALANCER_STRATEGY": "nonsense"}
    [provider] = from_environment(env).providers
    assert provider.id == "echo"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", [("a", 1)]),
        (" a : 7 , b ", [("a", 7), ("b", 1)]),
        ("a:b:3", [("a:b", 3)]),
        ("a$b:1000", [("a$b", 1000)]),
        ("a:007", [("a", 7)]),
    ],
)  # fmt: skip
def test_entries(text: str, expected: list[tuple[str, int]]) -> None:
    found = Faults("environment")
    assert read_keys(text, found) == [WeightedKey(*one) for one in expected]
    assert not found


def test_a_dollar_sign_is_only_that() -> None:
    [provider] = configured("a${HOME}b:2,$$c").providers
    assert [key.key.reveal() for key in provider.keys] == ["a${HOME}b", "$$c"]


WEIGHT = "the weight after the last colon must be a whole number, 1 to 1000"


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("sk-secret-2:0", WEIGHT),
        ("sk-secret-2:-1", WEIGHT),
        ("sk-secret-2:1.5", WEIGHT),
        ("sk-secret-2:", WEIGHT),
        ("sk-secret-2:1001", WEIGHT),
        ("sk-secret-2:1e3", WEIGHT),
        ("sk-secret-2:x", WEIGHT),
        ("sk-secret-2:99999999999999999999", WEIGHT),
        ("sk-secret-2:\u0661", WEIGHT),
        ("", "is empty"),
        ("  ", "is empty"),
        (":3", "has no key"),
        ("sk-secret-1", "is the same key as entry 1"),
        ("sk-secret-1:9", "is the same key as entry 1"),
        ("sk-secret 2", "the key holds a character that cannot be sent, or is too long"),
        ("sk-secret-2\n:1", None),
        ("sk-secr\u00e4t:1", "the key holds a character that cannot be sent, or is too long"),
        ("s" * 5000, "the key holds a character that cannot be sent, or is too long"),
    ],
)
def test_faults_name_the_place_and_never_the_key(entry: str, said: str | None) -> None:
    text = f"sk-secret-1:2,{entry},sk-secret-3"
    if said is None:
        assert len(configured(text).providers[0].keys) == 3
        return
    lines = faults(text)
    assert lines == [f"environment: LOAD_BALANCER_API_KEYS: entry 2: {said}"]


def test_every_fault_is_said_at_once() -> None:
    lines = faults(
        "a:0,b:-1",
        LOAD_BALANCER_STRATEGY="sk-pasted-here",
        LOAD_BALANCER_WINDOW_SIZE="5m",
        LOAD_BALANCER_PROVIDER="sk-and-here",
    )
    assert [line.split(":")[1].strip() for line in lines] == [
        "LOAD_BALANCER_API_KEYS", "LOAD_BALANCER_API_KEYS", "LOAD_BALANCER_STRATEGY", "LOAD_BALANCER_WINDOW_SIZE",
        "LOAD_BALANCER_PROVIDER",
    ]  # fmt: skip
    assert "sk-" not in "".join(lines)


@pytest.mark.parametrize("minutes", ["0", "-5", "1.5", "1441", "five", "1e2"])
def test_windows_that_are_none(minutes: str) -> None:
    assert faults(LOAD_BALANCER_WINDOW_SIZE=minutes) == [
        "environment: LOAD_BALANCER_WINDOW_SIZE: must be a whole number of minutes, 1 to 1440"
    ]


def test_no_keys_and_too_many() -> None:
    for text in ("", "  "):
        assert faults(text) == ["environment: LOAD_BALANCER_API_KEYS: holds no key"]
    assert faults(",".join(f"k{number}" for number in range(MAX_KEYS + 1))) == [
        f"environment: LOAD_BALANCER_API_KEYS: holds more than {MAX_KEYS} keys"
    ]


def test_enabled_or_not_is_to_be_told() -> None:
    with pytest.raises(ConfigError) as error:
        from_environment({"LOAD_BALANCER_ENABLED": "sk-pasted-here"})
    assert error.value.faults == ["environment: LOAD_BALANCER_ENABLED: must be true or false"]


secret = st.from_regex(r"[A-Za-z0-9_$-]{12,40}", fullmatch=True)


@given(st.lists(st.tuples(secret, st.integers(1, 1000)), min_size=1, max_size=20, unique_by=lambda one: one[0]))
def test_what_is_written_is_what_is_read(keys: list[tuple[str, int]]) -> None:
    found = Faults("environment")
    assert read_keys(",".join(f"{key}:{weight}" for key, weight in keys), found) == keys
    assert not found


@given(
    st.lists(secret, min_size=1, max_size=6),
    st.lists(st.sampled_from([":", ",", ":0", ":-1", ":x", " ", "\x00"]), max_size=8),
)
def test_whatever_is_wrong_no_key_is_said(keys: list[str], noise: list[str]) -> None:
    pieces = [piece for pair in zip(keys, [*noise, *[":1,"] * len(keys)], strict=False) for piece in pair]
    text = "".join(pieces)
    found = Faults("environment")
    read_keys(text, found)
    said = "".join(found.lines())
    assert not any(key in said for key in keys)
