"""The `fastroute` command."""

import argparse
import os
import sys
from collections.abc import Sequence

from fastroute import __version__
from fastroute._core._switch import USE_EXTENSIONS, missing_modules
from fastroute.billing.ledger import LedgerError
from fastroute.billing.report import format_json, format_table, usage_rows
from fastroute.config.environment import from_environment
from fastroute.config.inforce import not_in_force
from fastroute.config.load import check_text, load_file, refuse_open, with_overrides
from fastroute.config.patterns import is_pattern
from fastroute.config.schema import Config
from fastroute.control.plane import LEDGER_FILE
from fastroute.errors import ConfigError
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
    except (ServeError, LedgerError) as error:
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
    check.add_argument("file")
    check.set_defaults(run=_check)

    usage = commands.add_parser("usage", help="what was used and what it cost")
    usage.add_argument("-c", "--config", metavar="FILE")
    usage.add_argument("--json", action="store_true")
    usage.add_argument("--by", choices=("model", "key", "tenant", "provider", "day"), default="model")
    usage.set_defaults(run=_usage)
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
    config = with_overrides(_load(args.config), host=args.host, port=args.port, workers=args.workers)
    refusal = refuse_open(config)
    if refusal is not None:
        raise ConfigError([f"{args.config or 'environment'}: {refusal}"])
    configure_logging()
    for line in not_in_force(config):
        print(f"warning: {line}", file=sys.stderr)
    return Supervisor(config, _announce).run()


def _announce(config: Config, port: int, admin_port: int) -> None:
    """Say where the gateway is and print a command that works when pasted."""
    host = config.server.host
    shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}"
    print(f"{_version()} listening on {url} ({config.server.workers} worker(s))", flush=True)
    print(f"admin on http://{config.server.admin.host}:{admin_port}", flush=True)
    if not config.auth.keys:
        print("warning: no keys are configured: whoever can reach this address may use it", file=sys.stderr)
    print(f"try it:\n  {_curl(config, url)}", flush=True)


def _curl(config: Config, url: str) -> str:
    """Return a curl line for the first model of the configuration, in a dialect it is served in."""
    provider = config.providers[0]
    model = next((m.name for m in provider.models if not is_pattern(m.name)), _EXAMPLES.get(provider.type, "echo"))
    auth = ' -H "authorization: Bearer $FASTROUTE_API_KEY"' if config.auth.keys else ""
    message = '"messages":[{"role":"user","content":"Hello"}]'
    if provider.dialect == "anthropic":
        path, body = "/v1/messages", f'{{"model":"{model}","max_tokens":64,{message}}}'
    elif provider.dialect == "gemini":
        path, body = f"/v1beta/models/{model}:generateContent", '{"contents":[{"parts":[{"text":"Hello"}]}]}'
    else:
        path, body = "/v1/chat/completions", f'{{"model":"{model}",{message}}}'
    return f"curl {url}{path} -H 'content-type: application/json'{auth} -d '{body}'"


_EXAMPLES = {
    "openai": "gpt-4o-mini",
    "anthropic": "claude-3-5-haiku-latest",
    "gemini": "gemini-2.0-flash",
    "groq": "llama-3.1-8b-instant",
    "mistral": "mistral-small-latest",
}


def _check(args: argparse.Namespace) -> int:
    faults = check_text(args.file)
    for fault in faults:
        print(fault)
    if faults:
        return EXIT_FAULT
    print(f"{args.file}: ok")
    for line in not_in_force(load_file(args.file, os.environ)):
        print(f"warning: {line}", file=sys.stderr)
    return 0


def _usage(args: argparse.Namespace) -> int:
    state_dir = _load(args.config).server.state_dir
    rows = usage_rows(os.path.join(state_dir, LEDGER_FILE), state_dir, args.by)
    if args.json:
        sys.stdout.write(format_json(rows).decode() + "\n")
    else:
        print(format_table(rows))
    return 0
