"""Zero-config: a Config out of the environment, for `serve` without a file."""

from collections.abc import Mapping
from typing import Final

from fastroute.config.document import Entry, List, Node, Scalar, Table
from fastroute.config.faults import Faults
from fastroute.config.load import load_tree
from fastroute.config.presets import PRESETS, Preset
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
    providers: list[Node] = []
    catch_all = False
    for name, preset in PRESETS.items():
        variable = next((one for one in preset.variables if env.get(one)), None)
        if variable is None:
            continue
        models = preset.models
        if preset.dialect == "openai" and not catch_all:
            models, catch_all = (*models, "*"), True
        providers.append(_provider(name, preset, variable, models or (f"{name}/*",), env))
    if not providers:
        providers.append(_table(id=_text("echo"), type=_text("echo"), models=_list(_text("*"))))
    return providers


def _provider(name: str, preset: Preset, variable: str, models: tuple[str, ...], env: Mapping[str, str]) -> Node:
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
