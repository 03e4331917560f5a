"""Which header fields cross the gateway, and which never do.

Everything end-to-end crosses, except what identifies the client to us, us to the provider, or the provider's own site
to a browser. Hop-by-hop fields are those of RFC 9110 section 7.6.1 and the ones a Connection field names.
"""

from typing import Final
from urllib.parse import unquote_to_bytes

Header = tuple[bytes, bytes]

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

OWN: Final = frozenset(
    b"x-fastroute-" + word
    for word in (
        b"provider",
        b"exclude",
        b"priority",
        b"region",
        b"session",
        b"max-cost-usd",
        b"timeout-ms",
        b"tags",
        b"features",
        b"latency-target-ms",
        b"model",
        b"attempts",
        b"strategy",
        b"rule",
        b"overhead-us",
        b"request-id",
    )
)

#: Request fields that do not go upstream: the client's credentials, account selectors and cookies, what the upstream
#: client sets itself, and what tells the provider about the network, the page or the app behind us. Anthropic
#: refuses with 401 what has an `origin`, Google restricts keys to referrers and apps: such an answer would look as if
#: our key were bad.
REQUEST_DROP: Final = (
    HOP_BY_HOP
    | OWN
    | {
        b"accept-encoding",
        b"access-control-request-headers",
        b"access-control-request-method",
        b"anthropic-dangerous-direct-browser-access",
        b"api-base",
        b"api-key",
        b"authorization",
        b"base-url",
        b"cf-connecting-ip",
        b"content-encoding",
        b"content-length",
        b"cookie",
        b"custom-host",
        b"expect",
        b"forwarded",
        b"host",
        b"ocp-apim-subscription-key",
        b"openai-organization",
        b"openai-project",
        b"origin",
        b"referer",
        b"traceparent",
        b"tracestate",
        b"true-client-ip",
        b"via",
        b"x-amz-security-token",
        b"x-android-cert",
        b"x-android-package",
        b"x-api-base",
        b"x-api-key",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-proto",
        b"x-goog-api-key",
        b"x-goog-iam-authority-selector",
        b"x-goog-iam-authorization-token",
        b"x-goog-user-project",
        b"x-ios-bundle-identifier",
        b"x-portkey-custom-host",
        b"x-real-ip",
        b"x-request-id",
    }
)

#: What is addressed to us, or names further fields that must not go upstream.
OUR_FIELDS: Final = OWN | {b"x-request-id", b"connection", b"traceparent"}

#: Query parameters that do not go upstream: credentials, and names by which other gateways choose the destination.
QUERY_DROP: Final = frozenset(
    {
        b"key",
        b"api_key",
        b"api-key",
        b"access_token",
        b"bearer_token",
        b"oauth_token",
        b"subscription-key",
        b"api_base",
        b"base_url",
        b"custom_host",
        b"host",
        b"extra_headers",
    }
)

#: Response fields that do not reach the client: cookies, and what speaks for the provider's site, not for the answer.
RESPONSE_DROP: Final = (
    HOP_BY_HOP
    | OWN
    | {
        b"alt-svc",
        b"clear-site-data",
        b"date",
        b"nel",
        b"report-to",
        b"server",
        b"set-cookie",
        b"set-cookie2",
        b"strict-transport-security",
    }
)


def upstream_query(query: bytes) -> bytes:
    """Return a query less the client's credential and whatever would choose account or destination.

    Names are compared as the provider will read them: `k%65y` is `key`.
    """
    if not query:
        return query
    return b"&".join(pair for pair in query.split(b"&") if _name(pair) not in QUERY_DROP)


def _name(pair: bytes) -> bytes:
    name = pair.partition(b"=")[0]
    if b"%" in name or b"+" in name:
        name = unquote_to_bytes(name.replace(b"+", b" ")).strip()
    return name.lower()


def without_connection_fields(headers: list[Header], connection: bytes) -> list[Header]:
    """Return the fields less those that the Connection field names, and less any `x-fastroute-` field."""
    named = {token.strip() for token in connection.lower().split(b",")} - {b"content-type"}
    return [pair for pair in headers if pair[0] not in named and not pair[0].startswith(b"x-fastroute-")]
