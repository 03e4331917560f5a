"""The `fastroute` command."""

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from fastroute import __version__
from fastroute._core._switch import USE_EXTENSIONS, missing_modules
from fastroute._core.counters import Segment
from fastroute.admin.explain import Question, answer
from fastroute.admin.key_command import add_parser
from fastroute.admin.keys import clashes
from fastroute.auth.publication import Publication
from fastroute.auth.store import KeyRefusedError, KeyStoreError
from fastroute.billing.ledger import LedgerError
from fastroute.billing.report import format_json, format_table, usage_rows
from fastroute.build import Surroundings, build_snapshot, identities
from fastroute.clock import SYSTEM_CLOCK, system_rng
from fastroute.config.doubts import doubts
from fastroute.config.environment import from_environment
from fastroute.config.inforce import not_in_force
from fastroute.config.load import load_file, refuse_open, with_overrides
from fastroute.config.patterns import is_pattern
from fastroute.config.schema import Config
from fastroute.control.plane import LEDGER_FILE
from fastroute.errors import ConfigError, GatewayError
from fastroute.serve import ServeError, Supervisor, configure_logging

EXIT_FAULT = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status: 0, 1 (it failed), 2 (bad configuration or usage)."""
    args = _parser().parse_args(argv)
    try:
        status: int = args.run(args)
    except ConfigError as error:
        print("\n".join(error.faults), file=sys.stderr)
        return EXIT_FAULT
    except (ServeError, LedgerError, KeyStoreError, KeyRefusedError) as error:
        print(f"fastroute: {error}", file=sys.stderr)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fastroute", description="LLM gateway: route, relay, fail over, meter, bill.")
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", required=True)

    serve = commands.add_parser("serve", help="run the gateway")
    serve.add_argument("-c", "--config", metavar="FILE", help="YAML, TOML or JSON; without it, the environment decides")
    serve.add_argument("--host")
    serve.add_argument("--port", type=int)
    serve.add_argument("--workers", type=int)
    serve.set_defaults(run=_serve)

    check = commands.add_parser("check", help="check a configuration file")
    checked = check.add_mutually_exclusive_group(required=True)
    checked.add_argument("file", nargs="?", metavar="FILE")
    checked.add_argument("-c", "--config", metavar="FILE", help="the same, as for the other commands")
    check.set_defaults(run=_check)

    usage = commands.add_parser("usage", help="what was used and what it cost")
    usage.add_argument("-c", "--config", metavar="FILE")
    usage.add_argument("--json", action="store_true")
    usage.add_argument("--by", choices=("model", "key", "tenant", "provider", "day"), default="model")
    usage.set_defaults(run=_usage)

    add_parser(commands, _load, SYSTEM_CLOCK.wall_ns)

    explain = commands.add_parser("explain", help="who would serve a request, and why")
    explain.add_argument("-c", "--config", metavar="FILE")
    explain.add_argument("--model", required=True)
    explain.add_argument("--dialect", choices=("openai", "anthropic", "gemini"), default="openai")
    explain.add_argument("--key", default="", metavar="ID", help="as the virtual key of this id")
    explain.add_argument("--tenant", default="")
    explain.add_argument("--stream", action="store_true")
    explain.add_argument("--max-tokens", type=int, default=0)
    explain.add_argument("--header", action="append", default=[], metavar="NAME:VALUE")
    explain.add_argument("--body", metavar="FILE", help="the request as JSON")
    explain.add_argument("--json", action="store_true")
    explain.set_defaults(run=_explain)
    return parser


def _version() -> str:
    half = "compiled core"
    if not USE_EXTENSIONS:
        missing = missing_modules()
        half = f"pure-Python core; not compiled: {', '.join(missing)}" if missing else "pure-Python core"
    return f"fastroute {__version__} ({half})"


def _load(path: str | None) -> Config:
    return load_file(path, os.environ) if path else from_environment(os.environ)


def _serve(args: argparse.Namespace) -> int:
    def load() -> Config:
        config = with_overrides(_load(args.config), host=args.host, port=args.port, workers=args.workers)
        _refuse(config, args.config or "environment")
        return config

    config = load()
    configure_logging()
    _warn(config)
    return Supervisor(config, _announce, load if args.config else None).run()


def _refuse(config: Config, where: str) -> None:
    """Raise ConfigError if a configuration that has no faults must not be served all the same."""
    refusal = refuse_open(config, closed=_is_closed(config))
    refusals = [f"{where}: {refusal}"] if refusal is not None else []
    taken = clashes(config, SYSTEM_CLOCK.wall_ns)
    refusals += [f"{where}: auth.keys: a virtual key made at run time is called '{one}' too" for one in taken]
    if refusals:
        raise ConfigError(refusals)


def _is_closed(config: Config) -> bool:
    """Return whether callers need a key that was made at run time, if not one of the configuration."""
    published = Publication(config.server.state_dir)
    published.refresh()
    return published.closed


def _announce(config: Config, port: int, admin_port: int) -> None:
    """Say where the gateway is and print a command that works when pasted, once the shell has what it names."""
    host = config.server.host
    shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}"
    print(f"{_version()} listening on {url} ({config.server.workers} worker(s))", flush=True)
    print(f"admin on http://{config.server.admin.host}:{admin_port}", flush=True)
    closed = bool(config.auth.keys) or (not config.auth.path_tokens and _is_closed(config))
    if not closed and not config.auth.path_tokens:
        print(
            "warning: no keys are configured: whoever can reach this address may use it, until a first key is made"
            " (fastroute keys create); from then on every caller needs one",
            file=sys.stderr,
        )
    line = _curl(config, url, closed=closed)
    once = "".join(
        f", once {name} holds {what}" for name, what in _CREDENTIALS if f"${name}" in line and not os.environ.get(name)
    )
    print(f"try it{once}:\n  {line}", flush=True)


def _curl(config: Config, url: str, *, closed: bool) -> str:
    """Return a curl line for the first model of the configuration, in a dialect it is served in.

    closed: whoever comes without a path token needs a key.
    """
    provider = config.providers[0]
    model = next((m.name for m in provider.models if not is_pattern(m.name)), _EXAMPLES.get(provider.type, "echo"))
    if config.auth.path_tokens and not config.auth.keys:
        # The shell knows it where the environment has it; it is never printed.
        url = f"{url}/$FASTROUTE_UUID/lb"
    auth = ' -H "authorization: Bearer $FASTROUTE_API_KEY"' if closed else ""
    message = '"messages":[{"role":"user","content":"Hello"}]'
    if provider.dialect == "anthropic":
        path, body = "/v1/messages", f'{{"model":"{model}","max_tokens":64,{message}}}'
    elif provider.dialect == "gemini":
        path, body = f"/v1beta/models/{model}:generateContent", '{"contents":[{"parts":[{"text":"Hello"}]}]}'
    else:
        path, body = "/v1/chat/completions", f'{{"model":"{model}",{message}}}'
    return f"curl {url}{path} -H 'content-type: application/json'{auth} -d '{body}'"


#: The variables that the curl line takes credentials from, and what they are.
_CREDENTIALS: Final = (("FASTROUTE_UUID", "a path token"), ("FASTROUTE_API_KEY", "a client key"))

_EXAMPLES = {
    "openai": "gpt-4o-mini",
    "anthropic": "claude-3-5-haiku-latest",
    "gemini": "gemini-2.0-flash",
    "groq": "llama-3.1-8b-instant",
    "mistral": "mistral-small-latest",
}


def _check(args: argparse.Namespace) -> int:
    file = args.config or args.file
    try:
        config = load_file(file, os.environ)
        _refuse(config, file)
    except ConfigError as error:
        print("\n".join(error.faults))
        return EXIT_FAULT
    print(f"{file}: ok")
    _warn(config)
    return 0


def _warn(config: Config) -> None:
    for line in (*not_in_force(config), *doubts(config)):
        print(f"warning: {line}", file=sys.stderr)


def _usage(args: argparse.Namespace) -> int:
    state_dir = _load(args.config).server.state_dir
    rows = usage_rows(os.path.join(state_dir, LEDGER_FILE), state_dir, args.by)
    if args.json:
        sys.stdout.write(format_json(rows).decode() + "\n")
    else:
        print(format_table(rows))
    return 0


def _explain(args: argparse.Namespace) -> int:
    """Explain by the configuration alone: nothing has happened to its endpoints yet. The admin API knows what has."""
    config = _load(args.config)
    document = asyncio.run(_explained(config, _question(args)))
    if args.json:
        print(json.dumps(document, indent=2))
    else:
        print(_explained_text(document))
    return 0


def _question(args: argparse.Namespace) -> Question:
    headers = {}
    for line in args.header:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise ConfigError([f"--header {line!r}: must be NAME:VALUE"])
        headers[name.strip()] = value.strip()
    try:
        body = json.loads(Path(args.body).read_bytes()) if args.body else None
        fields = {name: getattr(args, name) for name in ("model", "dialect", "key", "tenant", "stream", "max_tokens")}
        return msgspec.convert({**fields, "headers": headers, "body": body}, Question)
    except (OSError, ValueError) as error:
        raise ConfigError([f"explain: {error}"]) from None


async def _explained(config: Config, question: Question) -> dict[str, Any]:
    rng = system_rng()
    with tempfile.TemporaryDirectory() as folder:
        segment = Segment.create(os.path.join(folder, "segment"), 1, max(1, len(identities(config))))
        loop = asyncio.get_running_loop()
        around = Surroundings(loop, segment, SYSTEM_CLOCK, partial(rng.getrandbits, 64), os.environ)
        try:
            return answer(question, config, build_snapshot(config, around), SYSTEM_CLOCK)
        except GatewayError as error:
            raise ConfigError([f"explain: {error.message}"]) from None


def _explained_text(document: dict[str, Any]) -> str:
    lines = [f"model {document['model']}"]
    if document.get("strategy"):
        lines.append(f"strategy {document['strategy']}, rules {', '.join(document['rules']) or 'none'}")
    for one in document["candidates"]:
        mark = "->" if one["chosen"] else "  "
        why = f"removed by {one['removed_by']}" if one["removed_by"] else f"load {one['load']:.3f}"
        lines.append(f"{mark} {one['endpoint']}: {why}, {one['health']}, weight {one['weight']}")
    if document["refusal"]:
        refusal = document["refusal"]
        lines.append(f"refused: {refusal['status']} {refusal['code']}: {refusal['message']}")
    return "\n".join(lines)
