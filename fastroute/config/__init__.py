"""Configuration: read from YAML, TOML, JSON or the environment, checked as a whole, frozen.

`schema` says what can be set, `read_*` turn a file into a tree of `document`, `shape` holds the tree against
the schema, `crosscheck` and `references` hold fields against each other, `complete` fills in what follows
from them.
"""

from fastroute.config.ceilings import Limits
from fastroute.config.complete import complete
from fastroute.config.doubts import doubts
from fastroute.config.environment import from_environment
from fastroute.config.inforce import not_in_force
from fastroute.config.load import load_file, refuse_open, with_overrides
from fastroute.config.schema import (
    Admin,
    ApiKey,
    Auth,
    Backoff,
    Breaker,
    Budget,
    Config,
    Drain,
    Model,
    Price,
    Provider,
    ProviderKey,
    Reject,
    Retry,
    Route,
    Routing,
    Rule,
    Server,
    ServerLimits,
    Tenant,
    Then,
    Timeouts,
    When,
)
from fastroute.config.secret import Secret

__all__ = [
    "Admin",
    "ApiKey",
    "Auth",
    "Backoff",
    "Breaker",
    "Budget",
    "Config",
    "Drain",
    "Limits",
    "Model",
    "Price",
    "Provider",
    "ProviderKey",
    "Reject",
    "Retry",
    "Route",
    "Routing",
    "Rule",
    "Secret",
    "Server",
    "ServerLimits",
    "Tenant",
    "Then",
    "Timeouts",
    "When",
    "complete",
    "doubts",
    "from_environment",
    "load_file",
    "not_in_force",
    "refuse_open",
    "with_overrides",
]
