"""What a refusal is about: the key, its money, the model, or which limit. Patterns of the providers' public errors.

A refusal that takes a key or a model out has to be said in a word of the answer's own (code, type, reason), or at the
beginning of its message. Providers quote in their messages what a caller has sent: a name that a caller has thought up
must not switch off a key.
"""

import re
from typing import Final

from fastroute.failover.provider_error import ProviderError
from fastroute.interfaces import (
    DAY_REQUESTS_LEFT,
    DAY_TOKENS_LEFT,
    INPUT_TOKENS_LEFT,
    MONTH_LEFT,
    OUTPUT_TOKENS_LEFT,
    REQUESTS_LEFT,
    TOKENS_LEFT,
    Allowance,
    Cause,
    Header,
    Scope,
)


def _starts(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


# --- money

_MONEY_WORDS: Final = frozenset(
    {
        "insufficient_quota",  # OpenAI, and who speaks like it
        "billing_hard_limit_reached",
        "billing_not_active",
        "insufficient_balance",
        "insufficient_credits",
        "credit_limit",
        "spend_limit_reached",
        "arrearage",  # Alibaba
        "1113",  # z.ai
    }
)
_MONEY: Final = _starts(
    r"your credit balance is too low",  # Anthropic
    r"you have reached your specified (?:\w+ )?(?:api )?usage limits",
    r"insufficient (?:balance|credits|funds)",  # DeepSeek, OpenRouter
    r"billing hard limit has been reached",
    r"your account is not active, please check your billing",
    r"your (?:newly created )?team (?:\S+ )?(?:has either used all|doesn't have any)",  # xAI
    r"your prepayment credits are depleted",  # Gemini
    r"(?:api )?key limit exceeded",  # OpenRouter
    r"you have exceeded your (?:monthly|included)\b.{0,20} credits",  # Hugging Face
    r"credit limit exceeded",  # Together
    r"monthly spend(?:ing)? limit",
)
#: Gemini says this of a limit per minute, too.
_MONEY_OF_OPENAI: Final = _starts(r"you exceeded your current quota, please check your plan")
#: Less would do: this request asks for more than is left.
_TOO_DEAR: Final = re.compile(
    r"fewer max_tokens|can only afford|more credits are required to run this"
    r"|prompt tokens limit exceeded"  # OpenRouter, of a prompt
    r"|\b(?:this|your|the) request(?:'s)? (?:would cost|costs|requires more|exceeds|estimated cost)"
    r"|\bestimated cost\b|(?:reduce|lower|decrease) (?:the |your )?(?:max_(?:completion_|output_)?tokens|prompt)",
    re.IGNORECASE,
)

# --- keys

_KEY_WORDS: Final = frozenset(
    {
        "invalid_api_key",
        "account_deactivated",
        "authentication_error",
        "unauthenticated",
        "api_key_invalid",  # Google's ErrorInfo
        "api_key_service_blocked",
        "api_key_http_referrer_blocked",
        "api_key_ip_address_blocked",
        "consumer_suspended",
        "consumer_invalid",
        "service_disabled",
        "unrecognizedclientexception",  # AWS
        "expiredtokenexception",
        "expiredtoken",
        "invalidsignatureexception",
        "missingauthenticationtokenexception",
        "unsupported_country_region_territory",
    }
)
_KEY: Final = _starts(
    r"(?:incorrect|invalid) api key",
    r"(?:your )?api key (?:not valid|is invalid|has been|was reported|expired|not found)",
    r"(?:this|your) (?:organization|account) has been (?:disabled|suspended|deactivated)",
    r"access denied due to invalid subscription key",
    r"the security token included in the request is",
    r"unreadable token",
)
#: The key is good, and is not for this: another request may be for it.
_NOT_THIS_OPERATION: Final = _starts(
    r"you have insufficient permissions for this operation",
    r"missing scopes?",
    r"oauth authentication is currently not",
    r"provider returned error\b",  # OpenRouter, of the credential or the money of somebody behind it
    r"cors requests ",  # Anthropic, of requests out of browsers
    r"(?:openai-)?(?:organization|project) header should match",
    r"no such (?:organization|project)\b",
)
_NOT_THIS: Final = _starts(
    _NOT_THIS_OPERATION.pattern,
    r"you are not allowed to (?:generate|sample|create|use)",
    r"your api key does not have permission to use the specified resource",
    r".{0,80}\b(?:not|un)[ -]?supported\b",
    r"you do not have permission to access",
    r"\w{0,40} ?not found \(or permission denied\)",  # Gemini, of a cache that another key has made
    r"permission '[\w.]{1,80}' denied on resource",  # Vertex, of whatever a request names
    r"\S{1,300} does not have \S{1,80} access to",  # Google's storage
    r"your organization must be verified to",  # OpenAI
    r"user: \S{1,300} is not authorized to perform: \S{1,100} on resource",  # AWS
    r"input token count|the total number of tokens",  # Together, of a prompt that is too long
    r"this (?:model|feature|endpoint|operation)\b",
)
_MODERATED: Final = _starts(
    r"(?:\S{1,300}|your chosen model) requires moderation\b",
    r"your input was flagged",
    r"content violates usage guidelines",  # xAI
)

# --- models

_MODEL_WORDS: Final = frozenset(
    {
        "model_not_found",
        "model_not_available",
        "model_not_supported",
        "model_decommissioned",
        "invalid_model",
        "deploymentnotfound",  # Azure
        "model_permission_blocked_org",  # Groq
        "model_permission_blocked_project",
        "model.accessdenied",  # Alibaba
        "no_access",  # GitHub Models
    }
)
_MODEL: Final = _starts(
    r"(?:the )?(?:requested )?model:? ?\S{1,300} (?:does not exist|(?:was )?not found|was removed|is not supported\.)",
    r"the (?:given|requested) model (?:does not|doesn't) exist",
    r"the provided model identifier is invalid",  # Bedrock
    r"you don't have access to the model",
    r"your organization must be verified to use the model",  # OpenAI
    r"user: \S{1,300} is not authorized to perform: bedrock:\w{1,40} on resource: "
    r"\S{1,200}(?:foundation-model|inference-profile)/",
    r"(?:model version|this model version) has reached the end of its life",
    r"model not (?:exist|found)",  # DeepSeek
    r"invalid model(?::| ['\"])",  # Mistral, Perplexity
    r"\S{1,300} is not a valid model id",  # OpenRouter
    r"publisher model `?\S{1,400}`? (?:was )?not found",  # Vertex
    r"models/\S{1,300} is not found for api version \S{1,20}, or is not supported for \w*generatecontent",
    r"permission 'aiplatform\.endpoints\.predict' denied on resource '\S{1,400}/models/",
)
_MODEL_STATUSES: Final = (400, 403, 404, 422)

# --- limits

_TOO_LARGE: Final = _starts(r"request too large", r"extra usage is required for long context")
_THROTTLED_WORDS: Final = frozenset({"throttlingexception", "throttledexception", "toomanyrequestsexception"})
# In this order: the first that is found is meant.
_LIMIT_PATTERNS: Final[tuple[tuple[Scope, str], ...]] = (
    ("day", r"per[-_ ]?(?:day|hour|week|month)|\bdaily\b|\bmonthly\b|\bweekly\b|\b[rt]pd\b"),
    ("concurrency", r"concurren|simultaneous|too many connections"),
    ("input_token", r"(?:input|prompt)[-_ ]?tokens?[-_ ]?(?:per|rate|limit|usage)"),
    ("output_token", r"(?:output|completion)[-_ ]?tokens?[-_ ]?(?:per|rate|limit|usage)"),
    (
        "token",
        r"tokens?[-_ ]?(?:per|rate|limit)|\btpm\b|too many tokens|number of (?:request )?tokens has exceeded",
    ),
    ("request", r"per[-_ ]?min|requests?[-_ ]?(?:rate|per|limit)|call rate|\brpm\b|too many requests"),
    ("account", r"(?:your|this) (?:account|organization|team|workspace)(?:'s)? (?:rate|usage|request) ?limit"),
    ("account", r"rate limit (?:for|of) (?:your|this) (?:account|organization|team|workspace)"),
    ("model", r"rate-limited upstream|overloaded|no capacity|resource exhausted"),
)
_LIMITS: Final = tuple((scope, re.compile(pattern, re.IGNORECASE)) for scope, pattern in _LIMIT_PATTERNS)
_LIMIT_WORDS: Final[dict[str, Scope]] = {"tokens": "token", "requests": "request"}
#: Dimensions by what it means that nothing is left of them.
_EXHAUSTED: Final[tuple[tuple[int, Scope], ...]] = (
    (MONTH_LEFT, "day"),
    (DAY_REQUESTS_LEFT, "day"),
    (DAY_TOKENS_LEFT, "day"),
    (INPUT_TOKENS_LEFT, "input_token"),
    (OUTPUT_TOKENS_LEFT, "output_token"),
    (TOKENS_LEFT, "token"),
    (REQUESTS_LEFT, "request"),
)
CAUSE_OF_LIMIT: Final[dict[Scope, Cause]] = {
    "request": "requests",
    "input_token": "input_tokens",
    "output_token": "output_tokens",
    "token": "tokens",
    "concurrency": "concurrency",
    "day": "day_quota",
    "account": "account_limit",
    "unknown": "unknown_limit",
    "model": "overloaded",
}


def cause_of(status: int, error: ProviderError) -> Cause:
    """Return what an error answer says of the key or its model; "" if that is nothing, or nothing of them."""
    if is_money(status, error):
        return "low_balance" if _TOO_DEAR.search(error.message) else "out_of_money"
    if status in _MODEL_STATUSES and (error.words & _MODEL_WORDS or _MODEL.match(error.message)):
        return "model_not_found"
    if status == 404 and "not_found_error" in error.words and error.message.startswith("model:"):
        return "model_not_found"
    if status == 401:
        return "" if _NOT_THIS_OPERATION.match(error.message) else "invalid_key"
    if status in (400, 403) and (error.words & _KEY_WORDS or _KEY.match(error.message)):
        return "invalid_key"
    if status != 403 or error.foreign or _NOT_THIS.match(error.message) or is_moderated(status, error):
        return ""
    return "no_permission"


def is_money(status: int, error: ProviderError) -> bool:
    """Whether the account has no money, or not enough."""
    if status == 402:
        return not _NOT_THIS_OPERATION.match(error.message)
    if status not in (400, 403, 429):
        return False
    if error.words & _MONEY_WORDS or _MONEY.match(error.message):
        return True
    return "resource_exhausted" not in error.words and _MONEY_OF_OPENAI.match(error.message) is not None


def is_moderated(status: int, error: ProviderError) -> bool:
    """Whether it is the content that is refused, where others refuse a key."""
    return status == 403 and _MODERATED.match(error.message) is not None


def is_too_large(status: int, error: ProviderError) -> bool:
    """Whether one request alone is above the limit: waiting does not help it, and other requests need not wait."""
    return status in (413, 429) and _TOO_LARGE.match(error.message) is not None


def is_throttled(status: int, error: ProviderError) -> bool:
    """Whether the answer is a rate limit, whatever its status (AWS)."""
    return status == 400 and bool(error.words & _THROTTLED_WORDS)


def limit_scope(headers: list[Header], error: ProviderError, allowance: Allowance | None) -> Scope:
    """Return which limit a refusal is about."""
    text = " ".join((*error.quotas, "")) or error.message
    for scope, pattern in _LIMITS:
        if pattern.search(text):
            return scope
    for word in error.words & _LIMIT_WORDS.keys():
        return _LIMIT_WORDS[word]
    for name, value in headers:
        # Limits of subscriptions, over hours and days.
        if name.startswith(b"anthropic-ratelimit-unified") and name.endswith(b"-status") and value == b"rejected":
            return "day"
    if allowance is not None:
        for dimension, scope in _EXHAUSTED:
            if allowance[3 * dimension + 1] == 0:
                return scope
    return "unknown"


def renewal_ms(allowance: Allowance | None) -> int | None:
    """Return when the last of the limits of which nothing is left is renewed, None if that is not said."""
    if allowance is None:
        return None
    times = [allowance[at + 1] for at in range(1, len(allowance), 3) if allowance[at] == 0]
    longest = max(times, default=-1)
    return longest if longest > 0 else None
