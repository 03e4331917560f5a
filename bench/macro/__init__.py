"""Whole-gateway benchmark: fastroute beside nginx, Envoy and LiteLLM in one run (see bench/README.md)."""
