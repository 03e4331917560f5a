"""Provider types: which dialect each speaks, where it lives, and which environment variable holds its key.

Base URLs and variables are those of the vendors' own API pages. The path of an operation is appended to the
base URL: `/chat/completions` for the OpenAI dialect, `/v1/messages` for Anthropic's, `/v1beta/models/...` for
Gemini's.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from fastroute.interfaces import DialectName


class Preset(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider type stands for.

    base_url: "" where the user has to say. variables: environment variables of the key, first one wins.
    include_usage: whether a streamed request needs `stream_options.include_usage` to be told its token
    counts. models: globs that zero-config gives the provider. base_url_variable: environment variable of the
    base URL.
    """

    dialect: DialectName = "openai"
    base_url: str = ""
    needs_base_url: bool = True
    variables: tuple[str, ...] = ()
    base_url_variable: str = ""
    needs_key: bool = True
    include_usage: bool = False
    models: tuple[str, ...] = ()


def _openai_like(base_url: str, variables: tuple[str, ...], models: tuple[str, ...]) -> Preset:
    return Preset(base_url=base_url, variables=variables, include_usage=True, models=models)


_GPT: Final = ("gpt-*", "o1*", "o3*", "o4*", "chatgpt-*", "text-embedding-*")
_MISTRAL: Final = (
    "mistral-*", "ministral-*", "codestral-*", "magistral-*", "devstral-*", "pixtral-*", "open-mistral-*",
)  # fmt: skip

#: Every supported value of `providers[].type`, in the order zero-config lists them.
PRESETS: Final[Mapping[str, Preset]] = MappingProxyType(
    {
        "openai": Preset(
            base_url="https://api.openai.com/v1",
            variables=("OPENAI_API_KEY",),
            base_url_variable="OPENAI_BASE_URL",
            include_usage=True,
            models=_GPT,
        ),
        "anthropic": Preset(
            dialect="anthropic",
            base_url="https://api.anthropic.com",
            variables=("ANTHROPIC_API_KEY",),
            base_url_variable="ANTHROPIC_BASE_URL",
            models=("claude-*",),
        ),
        "gemini": Preset(
            dialect="gemini",
            base_url="https://generativelanguage.googleapis.com",
            variables=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
            base_url_variable="GOOGLE_GEMINI_BASE_URL",
            models=("gemini-*",),
        ),
        "groq": _openai_like(
            "https://api.groq.com/openai/v1", ("GROQ_API_KEY",), ("llama-*", "meta-llama/*", "qwen/*", "groq/*")
        ),
        # Mistral reports usage in the last chunk unasked and answers 422 to `include_usage`.
        "mistral": Preset(base_url="https://api.mistral.ai/v1", variables=("MISTRAL_API_KEY",), models=_MISTRAL),
        "deepseek": _openai_like("https://api.deepseek.com/v1", ("DEEPSEEK_API_KEY",), ("deepseek-*",)),
        "xai": _openai_like("https://api.x.ai/v1", ("XAI_API_KEY",), ("grok-*",)),
        # Perplexity reports usage in every chunk unasked; its chat path has no /v1.
        "perplexity": Preset(
            base_url="https://api.perplexity.ai", variables=("PERPLEXITY_API_KEY",), models=("sonar*",)
        ),
        "moonshot": _openai_like("https://api.moonshot.ai/v1", ("MOONSHOT_API_KEY",), ("kimi-*", "moonshot-*")),
        "cerebras": _openai_like("https://api.cerebras.ai/v1", ("CEREBRAS_API_KEY",), ("llama3.1-*", "qwen-3-*")),
        "sambanova": _openai_like(
            "https://api.sambanova.ai/v1", ("SAMBANOVA_API_KEY",), ("Meta-Llama-*", "DeepSeek-*")
        ),
        "nvidia": _openai_like("https://integrate.api.nvidia.com/v1", ("NVIDIA_API_KEY",), ("nvidia/*",)),
        "fireworks": _openai_like("https://api.fireworks.ai/inference/v1", ("FIREWORKS_API_KEY",), ("accounts/*",)),
        "together": _openai_like("https://api.together.xyz/v1", ("TOGETHER_API_KEY", "TOGETHERAI_API_KEY"), ("*/*",)),
        "deepinfra": _openai_like("https://api.deepinfra.com/v1/openai", ("DEEPINFRA_API_KEY",), ("*/*",)),
        "openrouter": _openai_like("https://openrouter.ai/api/v1", ("OPENROUTER_API_KEY",), ("*/*",)),
        "ollama": Preset(base_url="http://127.0.0.1:11434/v1", needs_key=False, include_usage=True),
        "lmstudio": Preset(base_url="http://127.0.0.1:1234/v1", needs_key=False, include_usage=True),
        "vllm": Preset(needs_key=False, include_usage=True),
        "custom": Preset(needs_key=False, include_usage=True),
        "echo": Preset(needs_base_url=False, needs_key=False, include_usage=True),
    }
)

#: Known vendors whose wire protocol this version does not speak.
UNSUPPORTED_TYPES: Final = ("azure", "vertex", "bedrock", "sagemaker", "cohere")
