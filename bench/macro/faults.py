"""What can end a run before its table is printed."""


class RunVoid(Exception):
    """The figures of this run mean nothing; the message says which request, process or check spoilt them."""


class CannotRun(Exception):
    """The machine lacks something the rig needs (a tool, a second core)."""
