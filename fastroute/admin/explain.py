"""What a request would meet: the answer of `fastroute explain` and of `POST /admin/v1/explain`.

The request is described, not sent: no provider is called, nothing is counted, no money is spent.
"""

from typing import Annotated, Any, NamedTuple

import msgspec
import orjson

from fastroute.admin.keys import stored_key
from fastroute.auth.store import KeyRefusedError, KeyStoreError
from fastroute.clock import Clock
from fastroute.config.schema import Config
from fastroute.context import Context
from fastroute.downstream.operations import Operation, find_operation
from fastroute.downstream.request import Limits, RequestReader
from fastroute.downstream.wishes import read_wishes
from fastroute.errors import GatewayError
from fastroute.health.weighing import weigh
from fastroute.interfaces import DialectName, Header, Principal
from fastroute.routing.explain import Document, explain, refusal_document
from fastroute.snapshot import Snapshot

_PATHS: dict[DialectName, tuple[str, str]] = {
    "openai": ("/v1/chat/completions", "/v1/chat/completions"),
    "anthropic": ("/v1/messages", "/v1/messages"),
    "gemini": ("/v1beta/models/{model}:generateContent", "/v1beta/models/{model}:streamGenerateContent"),
}


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A request to be explained. body: as it would be sent; without it, one that only names the model.

    key: the id of a virtual key, whose tenant it is then. headers: what the client would send of `x-fastroute-*` and
    of what rules look at.
    """

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    dialect: DialectName = "openai"
    key: str = ""
    tenant: str = ""
    stream: bool = False
    max_tokens: Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)] = 0
    headers: dict[str, str] = {}
    body: dict[str, Any] | None = None


class Described(NamedTuple):
    """What stands in for a client that has not asked."""

    headers: list[Header]


def read_question(body: bytes) -> Question:
    """Return the question in a body. Raises GatewayError 400 for nonsense."""
    try:
        return msgspec.json.decode(body, type=Question)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise GatewayError(400, "invalid_request_error", str(error)) from None


def answer(question: Question, config: Config, snapshot: Snapshot, clock: Clock) -> Document:
    """Return who would serve the request and why. A refusal is an answer too. Raises GatewayError 400 for nonsense."""
    ctx = _context(question, config, snapshot, clock)
    named = question.model.encode()
    try:
        called, route = snapshot.routes.resolve(named, 0, len(named), question.dialect)
        ctx.called = called
        ctx.model = route.name or called
        plan = snapshot.planner.plan(ctx, route)
    except GatewayError as error:
        refusal = refusal_document(error)
        return {
            "model": question.model,
            "rules": list(error.rules),
            "choice": None,
            "candidates": [],
            "refusal": refusal,
        }
    now_ms = clock.monotonic_ns() // 1_000_000
    if snapshot.health_weights:
        # Workers do so once a second; here nothing else would.
        weigh(plan.pool.candidates, plan.pool.info.rows, snapshot.attempts, now_ms)
    return explain(snapshot.planner, plan, snapshot.attempts, now_ms)


def _context(question: Question, config: Config, snapshot: Snapshot, clock: Clock) -> Context:
    headers = [
        (name.lower().encode("latin-1", "replace"), value.encode("latin-1", "replace"))
        for name, value in question.headers.items()
    ]
    asker = Described(headers)
    ctx = Context(snapshot, asker, 0, "explain", clock.monotonic_ns(), clock.wall_ns(), None)
    ctx.operation = _operation(question)
    ctx.dialect = snapshot.dialects[question.dialect]
    ctx.principal = _principal(question, config, clock)
    ctx.wishes = read_wishes(dict(headers))
    limits = config.server.limits
    reader = RequestReader(Limits(limits.max_body_bytes, limits.max_json_depth, limits.max_uri_bytes, 0))
    reader.take_body(ctx, _body(question))
    ctx.stream = ctx.stream or question.stream
    return ctx


def _operation(question: Question) -> Operation:
    path = _PATHS[question.dialect][question.stream].replace("{model}", "m")
    return find_operation("POST", path.encode())[0]


def _principal(question: Question, config: Config, clock: Clock) -> Principal:
    for key in config.auth.keys:
        if key.id == question.key:
            return Principal(key.id, question.tenant or key.tenant)
    if not question.key:
        return Principal("explain", question.tenant or "default")
    try:
        key = stored_key(config.server.state_dir, question.key, clock.wall_ns)
    except KeyRefusedError:
        raise GatewayError(400, "invalid_request_error", f"no key is called '{question.key}'", param="key") from None
    except KeyStoreError as error:
        raise GatewayError(503, "keys_unavailable", str(error)) from None
    return Principal(key.id, question.tenant or key.tenant)


def _body(question: Question) -> bytes:
    body = dict(question.body or {})
    body.setdefault("model", question.model)
    if question.max_tokens:
        body.setdefault("max_tokens", question.max_tokens)
    if question.stream and question.dialect != "gemini":
        body.setdefault("stream", True)
    return orjson.dumps(body)
