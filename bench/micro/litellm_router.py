"""What LiteLLM's router takes to choose a deployment: ``PYTHON_WITH_LITELLM bench/micro/litellm_router.py``.

Stands alone, because LiteLLM lives in an environment of its own. Prints one line per size and strategy: the median of
nine rounds, in microseconds per choice.
"""

import os
import statistics
import time

# No price list from the network: it has nothing to do with the choice.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

from litellm import Router

MESSAGES = [{"role": "user", "content": "The quick brown fox jumps over the lazy dog. " * 20}]
STRATEGIES = ("simple-shuffle", "least-busy", "latency-based-routing")
ROUNDS = 9


def router(deployments: int, strategy: str) -> Router:
    """Return a router over that many deployments of one model."""
    model_list = [
        {
            "model_name": "m",
            "litellm_params": {
                "model": "openai/gpt-4o",
                "api_key": "none",
                "api_base": f"http://127.0.0.1:{10_000 + i}/v1",
            },
        }
        for i in range(deployments)
    ]
    return Router(model_list=model_list, routing_strategy=strategy)


def microseconds(chooser: Router, choices: int) -> float:
    """Return the median time of one choice."""
    rounds = []
    for _ in range(ROUNDS):
        began = time.perf_counter_ns()
        for _ in range(choices):
            chooser.get_available_deployment(model="m", messages=MESSAGES)
        rounds.append((time.perf_counter_ns() - began) / choices / 1000)
    return statistics.median(rounds)


def main() -> None:
    """Measure and print."""
    for deployments, choices in ((10, 200), (1000, 10)):
        for strategy in STRATEGIES:
            print(
                f"{deployments:5} deployments, {strategy}: {microseconds(router(deployments, strategy), choices):.0f}"
            )


if __name__ == "__main__":
    main()
