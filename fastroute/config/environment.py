"""Zero-config: a Config out of the environment, for `serve` without a file."""

from collections.abc import Mapping
from typing import Final

from fastroute.config.document import Entry, List, Node, Scalar, Table
from fastroute.config.faults import Faults
from fastroute.config.load import load_tree
from fastroute.config.presets import PRESETS
from fastroute.config.schema import Config

#: Variables that set a field of `server`.
_SERVER_VARIABLES: Final = {
    "host": "FASTROUTE_HOST",
    "port": "FASTROUTE_PORT",
    "workers": "FASTROUTE_WORKERS",
    "state_dir": "FASTROUTE_STATE_DIR",
}


def from_environment(env: Mapping[str, str]) -> Config:
    """Return a Config of one provider per API key found in `env`, or of the embedded echo provider if there
    is none.

    The first provider of the OpenAI dialect also serves every model that no other lists. FASTROUTE_HOST,
    _PORT, _WORKERS, _STATE_DIR, _API_KEY and _ADMIN_KEY are honoured; an empty variable counts as unset.
    Raises ConfigError.
    """
    server: dict[str, Node] = {
        name: _reference(variable) for name, variable in _SERVER_VARIABLES.items() if env.get(variable)
    }
    if env.get("FASTROUTE_ADMIN_KEY"):
        server["admin"] = _table(key=_reference("FASTROUTE_ADMIN_KEY"))
    keys: tuple[Node, ...] = ()
    if env.get("FASTROUTE_API_KEY"):
        keys = (_table(id=_text("default"), key=_reference("FASTROUTE_API_KEY")),)
    tree = _table(server=_table(**server), auth=_table(keys=_list(*keys)), providers=_list(*_providers(env)))
    return load_tree(tree, env, Faults("environment"))


def _providers(env: Mapping[str, str]) -> list[Node]:
    found = [(name, next((one for one in preset.variables if env.get(one)), "")) for name, preset in PRESETS.items()]
    found = [(name, variable) for name, variable in found if variable]
    if not found:
        return [_table(id=_text("echo"), type=_text("echo"), models=_list(_text("*")))]
    catch_all = next((name for name, _ in found if PRESETS[name].dialect == "openai"), "")
    # Patterns count in the order they are listed, so the provider that takes everything comes last.
    found.sort(key=lambda one: one[0] == catch_all)
    return [_provider(name, variable, env, catch_all=name == catch_all) for name, variable in found]


def _provider(name: str, variable: str, env: Mapping[str, str], *, catch_all: bool) -> Node:
    preset = PRESETS[name]
    models = (*preset.models, "*") if catch_all else preset.models
    fields: dict[str, Node] = {
        "id": _text(name),
        "type": _text(name),
        "keys": _list(_reference(variable)),
        "models": _list(*map(_text, models)),
    }
    if preset.base_url_variable and env.get(preset.base_url_variable):
        fields["base_url"] = _reference(preset.base_url_variable)
    return _table(**fields)


def _text(value: str) -> Node:
    return Scalar("string", value, 0)


def _reference(variable: str) -> Node:
    return Scalar("string", f"${{{variable}}}", 0)


def _table(**fields: Node) -> Table:
    return Table(tuple(Entry(name, 0, node) for name, node in fields.items()), 0, len(fields))


def _list(*items: Node) -> List:
    return List(items, 0, len(items))
