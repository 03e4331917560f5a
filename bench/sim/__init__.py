"""Routing on a virtual clock: simulated providers, and before them the strategies, breakers and budgets themselves.

What is simulated is time, arrivals and providers. Whatever decides is fastroute's own code, the same that the gateway
runs. Run it with ``python -m bench.sim``.
"""
