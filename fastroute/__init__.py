"""fastroute: an LLM gateway that routes, relays, fails over, meters and bills."""

__version__ = "0.1.0"
