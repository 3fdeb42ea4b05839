"""The published openpi client asking a server; runs in the client's own virtual environment, imports nothing of ours.

Arguments: URL, requests of each client, clients, and the token or nothing. The observation is what the tabletop mapping
asks for. Prints one line of JSON: the server's metadata, the shape and the first row of an answer, and the milliseconds
of every request after a client's first.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from openpi_client.websocket_client_policy import (  # pyright: ignore[reportMissingImports]
    WebsocketClientPolicy,
)

OBSERVATION = {
    "observation/image": np.zeros((128, 128, 3), dtype=np.uint8),
    "observation/wrist_image": np.zeros((128, 128, 3), dtype=np.uint8),
    "observation/state": np.array([0.4, 0.0, 0.3, 0.0, 1.0, 0.0, 0.0, 0.04], dtype=np.float32),
    "prompt": "pick up the red block",
}


def main(url: str, requests: int, clients: int, token: str) -> None:
    """Ask and print."""
    policies = [WebsocketClientPolicy(url, api_key=token or None) for _ in range(clients)]
    metadata = policies[0].get_server_metadata()
    answer = policies[0].infer(OBSERVATION)
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        milliseconds = [took for some in pool.map(lambda policy: ask(policy, requests), policies) for took in some]
    seconds = time.perf_counter() - started
    report = {
        "policy": metadata["policy"],
        "spec_hash": metadata["spec_hash"],
        "shape": list(answer["actions"].shape),
        "dtype": str(answer["actions"].dtype),
        "first_row": answer["actions"][0].tolist(),
        "numpy": np.__version__,
        "milliseconds": milliseconds,
        "seconds": seconds,
    }
    try:
        policies[0].infer({"prompt": "nothing else"})
    except RuntimeError as error:
        report["error"] = str(error)
    print(json.dumps(report))


def ask(policy: WebsocketClientPolicy, requests: int) -> list[float]:
    """Milliseconds of every request but the first."""
    milliseconds = []
    for _ in range(requests):
        started = time.perf_counter()
        policy.infer(OBSERVATION)
        milliseconds.append((time.perf_counter() - started) * 1e3)
    return milliseconds[1:]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] if len(sys.argv) > 4 else "")
