import pytest

from fastroute.config import from_environment
from fastroute.config.patterns import any_matches
from fastroute.config.presets import PRESETS, UNSUPPORTED_TYPES
from fastroute.errors import ConfigError
from fastroute.interfaces import DialectName


def test_nothing_set_is_the_echo_provider() -> None:
    config = from_environment({"OPENAI_API_KEY": "", "PATH": "/bin"})
    (provider,) = config.providers
    assert (provider.id, provider.type, [model.name for model in provider.models]) == ("echo", "echo", ["*"])
    assert config.auth.keys == ()
    assert (config.server.host, config.server.port) == ("127.0.0.1", 8080)


def test_each_key_makes_a_provider_and_the_catch_all_is_last() -> None:
    env = {"OPENAI_API_KEY": "a", "ANTHROPIC_API_KEY": "b", "GOOGLE_API_KEY": "c", "MISTRAL_API_KEY": "d"}
    config = from_environment(env)
    assert [provider.id for provider in config.providers] == ["anthropic", "gemini", "mistral", "openai"]
    assert [provider.keys[0].key.reveal() for provider in config.providers] == ["b", "c", "d", "a"]
    stars = [provider.id for provider in config.providers for model in provider.models if model.name == "*"]
    assert stars == ["openai"]
    assert config.providers[-1].models[-1].name == "*"


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("claude-3-5-haiku", "anthropic"), ("gemini-2.5-flash", "gemini"), ("gpt-4o", "openai"), ("o3-mini", "openai"),
        ("text-embedding-3-small", "openai"), ("codestral-latest", "mistral"), ("something-else", "openai"),
    ],
)  # fmt: skip
def test_models_find_their_provider(model: str, provider: str) -> None:
    env = {"OPENAI_API_KEY": "a", "ANTHROPIC_API_KEY": "b", "GEMINI_API_KEY": "c", "MISTRAL_API_KEY": "d"}
    config = from_environment(env)
    listed = (one.id for one in config.providers if any_matches((spec.name for spec in one.models), model))
    assert next(listed) == provider


def test_the_first_openai_like_provider_takes_the_rest() -> None:
    config = from_environment({"GROQ_API_KEY": "a", "ANTHROPIC_API_KEY": "b"})
    assert [(one.id, one.models[-1].name) for one in config.providers] == [("anthropic", "claude-*"), ("groq", "*")]
    (only,) = from_environment({"ANTHROPIC_API_KEY": "b"}).providers
    assert [model.name for model in only.models] == ["claude-*"]


def test_gemini_key_wins_over_google_key() -> None:
    (provider,) = from_environment({"GOOGLE_API_KEY": "c", "GEMINI_API_KEY": "d"}).providers
    assert provider.keys[0].key.reveal() == "d"


def test_base_urls() -> None:
    env = {
        "OPENAI_API_KEY": "a",
        "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
        "ANTHROPIC_API_KEY": "b",
        "ANTHROPIC_BASE_URL": "http://127.0.0.1:9/v1/",
    }
    config = from_environment(env)
    assert {one.id: one.base_url for one in config.providers} == {
        "openai": "http://127.0.0.1:9/v1",
        "anthropic": "http://127.0.0.1:9",
    }


def test_a_base_url_that_is_our_own_is_refused() -> None:
    """Clients set OPENAI_BASE_URL to the gateway; a gateway started in the same shell must not call itself."""
    with pytest.raises(ConfigError) as error:
        from_environment({"OPENAI_API_KEY": "a", "OPENAI_BASE_URL": "http://localhost:8080/v1"})
    assert "points at this gateway itself" in error.value.faults[0]


def test_server_variables() -> None:
    config = from_environment(
        {
            "FASTROUTE_HOST": "0.0.0.0",
            "FASTROUTE_PORT": "9000",
            "FASTROUTE_WORKERS": "4",
            "FASTROUTE_STATE_DIR": "/var/lib/$x",
            "FASTROUTE_API_KEY": "fr-key",
            "FASTROUTE_ADMIN_KEY": "fr-admin",
        }
    )
    server = config.server
    assert (server.host, server.port, server.workers, server.state_dir) == ("0.0.0.0", 9000, 4, "/var/lib/$x")
    assert server.admin.key is not None
    assert server.admin.key.reveal() == "fr-admin"
    assert [(key.id, key.key and key.key.reveal()) for key in config.auth.keys] == [("default", "fr-key")]
    assert "fr-" not in repr(config)


def test_faults_name_the_variable_and_not_the_value() -> None:
    with pytest.raises(ConfigError) as error:
        from_environment({"FASTROUTE_PORT": "sk-oops", "FASTROUTE_WORKERS": "0", "OPENAI_API_KEY": "sk oops\n"})
    assert len(error.value.faults) == 3
    assert "oops" not in str(error.value)
    assert error.value.faults[0] == (
        "environment: server.port: expected an integer (its value comes from ${FASTROUTE_PORT})"
    )


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_are_complete(name: str) -> None:
    preset = PRESETS[name]
    dialects: tuple[DialectName, ...] = ("openai", "anthropic", "gemini")
    assert preset.dialect in dialects
    assert name not in UNSUPPORTED_TYPES
    assert not preset.base_url.endswith("/")
    assert not preset.base_url or preset.base_url.startswith(("https://", "http://127.0.0.1:"))
    assert not preset.include_usage or preset.dialect == "openai"
    # What zero-config finds a key for, it must be able to list.
    assert bool(preset.variables) == bool(preset.models) == preset.needs_key


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.variables])
def test_every_preset_loads_from_its_variable(name: str) -> None:
    (provider,) = from_environment({PRESETS[name].variables[0]: "key"}).providers
    assert (provider.type, provider.base_url) == (name, PRESETS[name].base_url)
