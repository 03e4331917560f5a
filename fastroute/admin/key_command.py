"""`fastroute keys create|list|revoke`: on the files of the state directory, whether a gateway runs there or not."""

import argparse
import json
import re
import sys
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import inspect

from fastroute.admin.keys import BUDGET_FORM, MAX_LIFE_S, MAX_PAGE, Document, KeyDesk, KeyRequest
from fastroute.auth.terms import MAX_MODELS
from fastroute.config.ceilings import Limits
from fastroute.config.fields import Identifier, ModelName, Period, Sha256Hex
from fastroute.config.schema import Config
from fastroute.errors import ConfigError

#: Returns the configuration in a file, or that of the environment.
Load = Callable[[str | None], Config]

_LIMITS = Limits.__struct_fields__
#: The field that an error is about, as msgspec writes it; with a bracket if it is about one of its elements.
_PLACE: Final = re.compile(r" - at `\$\.([a-z0-9_.]+\[?)")


def add_parser(commands: Any, load: Load, wall_ns: Callable[[], int]) -> None:
    """Add the command to those of the command line."""
    keys = commands.add_parser("keys", help="make, list and revoke virtual keys, also while the gateway runs")
    actions = keys.add_subparsers(dest="action", required=True)

    create = _action(actions, "create", "make a key and print its secret, this once", load, wall_ns, _create)
    create.add_argument("--id", help="what it is called in logs, ledger and rules; without it, one is made up")
    create.add_argument("--tenant")
    create.add_argument("--model", action="append", dest="models", metavar="GLOB", help="may be repeated")
    for name in _LIMITS:
        create.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=f"the limit {name}")
    create.add_argument("--budget-usd", metavar="USD")
    create.add_argument("--budget-per", choices=Period.__args__, metavar="PERIOD")  # type: ignore[attr-defined]
    create.add_argument("--expires-at", metavar="TIME", help="RFC 3339, such as 2030-01-31T00:00:00Z")
    create.add_argument("--expires-in", metavar="AGE", help="such as 90d, 12h, 30m, 45s")
    create.add_argument("--key-sha256", metavar="HEX", help="of a secret that exists already, instead of a new one")
    create.add_argument(
        "--from", dest="source", metavar="FILE", help="many keys: a JSON object on each line; - is stdin"
    )

    listing = _action(actions, "list", "list keys", load, wall_ns, _list)
    listing.add_argument("--revoked", action="store_true", help="revoked ones too")
    listing.add_argument("--limit", type=int, default=0, metavar="N")
    listing.add_argument("--after", default="", metavar="NEXT", help="the 'next' of another page")

    revoke = _action(actions, "revoke", "revoke a key, at once and for good", load, wall_ns, _revoke)
    revoke.add_argument("id")


def _action(
    actions: Any,
    name: str,
    text: str,
    load: Load,
    wall_ns: Callable[[], int],
    run: Callable[[argparse.Namespace, KeyDesk], int],
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text)
    parser.add_argument("-c", "--config", metavar="FILE")
    parser.add_argument("--state-dir", metavar="DIR", help="instead of that of the configuration")
    parser.add_argument("--json", action="store_true")

    def command(args: argparse.Namespace) -> int:
        desk = KeyDesk(load(args.config), wall_ns, args.state_dir)
        try:
            return run(args, desk)
        finally:
            desk.close()

    parser.set_defaults(run=command)
    return parser


def _create(args: argparse.Namespace, desk: KeyDesk) -> int:
    was_open = desk.is_open()
    made = desk.create([_request(args)] if args.source is None else _read_requests(args))
    # The secrets first: should publishing fail, the gateway will do it, but nobody can tell them again.
    if args.source is not None:
        print("\n".join(json.dumps(one) for one in made))
    elif args.json:
        print(json.dumps(made[0], indent=2))
    else:
        print(f"id:  {made[0]['id']}")
        if "key" in made[0]:
            print(f"key: {made[0]['key']}")
            print("This is the only time the key is shown; only its SHA-256 is kept.", file=sys.stderr)
    sys.stdout.flush()
    if was_open:
        print(
            "note: this is the first key; a gateway here was open to everybody, and from now on every caller needs one,"
            " also once this one is revoked",
            file=sys.stderr,
        )
    if any(one["budget"] for one in made):
        print("warning: budgets of keys are accepted, but not in force in this version", file=sys.stderr)
    desk.publish(wait=True)
    return 0


def _list(args: argparse.Namespace, desk: KeyDesk) -> int:
    if args.limit < 0:
        raise ConfigError(["--limit: must be 1 or more"])
    keys: list[Document] = []
    after, wanted = args.after, args.limit or sys.maxsize
    while True:
        page = desk.page(after, min(MAX_PAGE, wanted - len(keys)), revoked=args.revoked)
        keys += page["keys"]
        after = page["next"]
        if after is None or len(keys) >= wanted:
            break
    if args.json:
        print(json.dumps({"keys": keys, "next": after}, indent=2))
    else:
        print(_table(keys))
        if after is not None:
            print(f"more: --after {after}", file=sys.stderr)
    return 0


def _revoke(args: argparse.Namespace, desk: KeyDesk) -> int:
    document = desk.revoke(args.id)
    desk.publish(wait=True)
    print(json.dumps(document, indent=2) if args.json else f"{args.id} is revoked")
    return 0


def _given(args: argparse.Namespace) -> list[object]:
    """Return the values of the options that describe one key."""
    names = ("id", "tenant", "models", "budget_usd", "budget_per", "expires_at", "expires_in", "key_sha256", *_LIMITS)
    return [getattr(args, name) for name in names]


def _request(args: argparse.Namespace) -> KeyRequest:
    limits = {name: getattr(args, name) for name in _LIMITS if getattr(args, name) is not None}
    budget = {"usd": args.budget_usd, "per": args.budget_per}
    fields = {
        "id": args.id,
        "tenant": args.tenant,
        "models": args.models,
        "limits": limits or None,
        "budget": {name: value for name, value in budget.items() if value is not None} or None,
        "expires_at": args.expires_at,
        "expires_in_s": _seconds(args.expires_in) if args.expires_in is not None else None,
        "key_sha256": args.key_sha256,
    }
    try:
        return msgspec.convert({name: value for name, value in fields.items() if value is not None}, KeyRequest)
    except msgspec.ValidationError as error:
        raise ConfigError([f"keys create: {_in_options(str(error))}"]) from None


def _in_options(message: str) -> str:
    """Return what is wrong with a request in terms of the options that it was made of."""
    place = _PLACE.search(message)
    option, form = _options().get(place[1], ("", "")) if place is not None else ("", "")
    return f"{option}: {form}" if option else message


def _options() -> dict[str, tuple[str, str]]:
    """Return the option of each field of a request, and what it must be."""
    limits = inspect.type_info(Limits)
    assert isinstance(limits, inspect.StructType)
    return {
        "id": ("--id", f"must be {_form(Identifier)}"),
        "tenant": ("--tenant", f"must be {_form(Identifier)}"),
        "models": ("--model", f"may be given {MAX_MODELS} times"),
        "models[": ("--model", f"must be {_form(ModelName)}"),
        "expires_at": ("--expires-at", "must be a time such as 2030-01-31T00:00:00Z"),
        "expires_in_s": ("--expires-in", f"must be 1s to {MAX_LIFE_S // 86_400}d"),
        "key_sha256": ("--key-sha256", f"must be {_form(Sha256Hex)}"),
        "budget": ("--budget-per", "needs --budget-usd"),
        "budget.usd": ("--budget-usd", f"must be {BUDGET_FORM}"),
        **{f"limits.{one.name}": (f"--{one.name}", f"must be {_range(one.type)}") for one in limits.fields},
    }


def _form(kind: Any) -> str:
    described = inspect.type_info(kind)
    assert isinstance(described, inspect.Metadata)
    return str((described.extra or {})["form"])


def _range(kind: inspect.Type) -> str:
    assert isinstance(kind, inspect.UnionType)
    number = next(one for one in kind.types if isinstance(one, inspect.IntType))
    return f"{number.ge} to {number.le}"


def _read_requests(args: argparse.Namespace) -> list[KeyRequest]:
    source = args.source
    if any(value is not None for value in _given(args)):
        # What it says would hold for none of the keys.
        raise ConfigError(["--from: goes with no option that describes a key; the lines of the file do that"])
    try:
        if source == "-":
            data = sys.stdin.buffer.read()
        else:
            with open(source, "rb") as file:
                data = file.read()
    except OSError as error:
        raise ConfigError([f"{source}: cannot be read: {error.strerror}"]) from None
    decoder = msgspec.json.Decoder(KeyRequest)
    requests: list[KeyRequest] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            if line.strip():
                requests.append(decoder.decode(line))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ConfigError([f"{source}:{number}: {error}"]) from None
    return requests


def _seconds(text: str) -> int:
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86_400}.get(text[-1:])
    if unit is None or not text[:-1].isdecimal() or len(text) > 12:
        raise ConfigError(["--expires-in: must be a number and one of s, m, h, d"])
    return int(text[:-1]) * unit


def _table(keys: list[Document]) -> str:
    rows = [("id", "state", "source", "tenant", "models", "expires")]
    rows += [
        (key["id"], key["state"], key["source"], key["tenant"], " ".join(key["models"]), key["expires_at"] or "-")
        for key in keys
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
