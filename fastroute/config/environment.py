"""Zero-config: a Config out of the environment, for `serve` without a file."""

from collections.abc import Mapping
from typing import Final

from fastroute.config.document import Entry, List, Node, Scalar, Table
from fastroute.config.faults import Faults
from fastroute.config.load import load_tree
from fastroute.config.load_balancer import is_enabled, pool_providers, pool_routing
from fastroute.config.presets import PRESETS
from fastroute.config.schema import Config
from fastroute.errors import ConfigError

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
    _PORT, _WORKERS, _STATE_DIR, _API_KEY, _UUID and _ADMIN_KEY are honoured; an empty variable counts as unset.
    With LOAD_BALANCER_ENABLED, the keys of LOAD_BALANCER_API_KEYS are pools of their providers. Raises ConfigError.
    """
    faults = Faults("environment")
    pools = pool_providers(env, faults) if is_enabled(env, faults) else {}
    if faults:
        raise ConfigError(faults.lines())
    server: dict[str, Node] = {
        name: _reference(variable) for name, variable in _SERVER_VARIABLES.items() if env.get(variable)
    }
    if env.get("FASTROUTE_ADMIN_KEY"):
        server["admin"] = _table(key=_reference("FASTROUTE_ADMIN_KEY"))
    keys: tuple[Node, ...] = ()
    if env.get("FASTROUTE_API_KEY"):
        keys = (_table(id=_text("default"), key=_reference("FASTROUTE_API_KEY")),)
    auth: dict[str, Node] = {"keys": _list(*keys)}
    if env.get("FASTROUTE_UUID"):
        auth["path_tokens"] = _list(_reference("FASTROUTE_UUID"))
    fields: dict[str, Node] = {"server": _table(**server), "auth": _table(**auth)}
    if pools:
        fields["routing"] = pool_routing()
    return load_tree(_table(**fields, providers=_list(*_providers(env, pools))), env, faults)


def _providers(env: Mapping[str, str], pools: Mapping[str, Node]) -> list[Node]:
    found = [(name, next((one for one in preset.variables if env.get(one)), "")) for name, preset in PRESETS.items()]
    # A pool has its keys from one variable only.
    found = [(name, variable) for name, variable in found if variable and name not in pools]
    return [*_single(found, env, pools), *pools.values()]


def _single(found: list[tuple[str, str]], env: Mapping[str, str], pools: Mapping[str, Node]) -> list[Node]:
    """Return the providers of one key each, or the echo provider if there is nobody else."""
    if not found and pools:
        return []
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
