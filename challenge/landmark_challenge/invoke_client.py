"""The platform's side of an invoke container, standard library only: `python3 -c "$(cat invoke_client.py)" SECONDS`.

Waits until GET /health answers 200, then sends one POST /invoke per line on stdin. One JSON line each on stdout:
{"healthy": true, "seconds": s}, then {"status": code, "seconds": s} (status 0: no answer).
"""

import http.client
import json
import sys
import time

PORT = 4743
HEALTH_TIMEOUT_S = 10.0


def request(method: str, path: str, *, timeout_s: float, port: int = PORT) -> tuple[int, float]:
    """The status (0 where nothing answered) and the seconds that one request took."""
    started = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        response.read()
        status = response.status
    except (OSError, http.client.HTTPException):
        status = 0
    finally:
        connection.close()
    return status, time.perf_counter() - started


def wait_until_healthy(*, seconds: float, port: int = PORT) -> bool:
    """Whether /health answered 200 within `seconds`; a redirect is a failure at once, as on the platform."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        status, _ = request("GET", "/health", timeout_s=HEALTH_TIMEOUT_S, port=port)
        if status == 200 or 300 <= status < 400:
            return status == 200
        time.sleep(0.05)
    return False


def main(arguments: list[str]) -> int:
    """Wait SECONDS for health, then one call per line on stdin, each of at most SECONDS_PER_CALL."""
    health_s = float(arguments[0]) if arguments else 300.0
    call_s = float(arguments[1]) if len(arguments) > 1 else 1200.0
    port = int(arguments[2]) if len(arguments) > 2 else PORT
    started = time.perf_counter()
    healthy = wait_until_healthy(seconds=health_s, port=port)
    print(json.dumps({"healthy": healthy, "seconds": round(time.perf_counter() - started, 6)}), flush=True)
    if not healthy:
        return 1
    worst = 201
    for _ in sys.stdin:
        status, seconds = request("POST", "/invoke", timeout_s=call_s, port=port)
        print(json.dumps({"status": status, "seconds": round(seconds, 6)}), flush=True)
        worst = worst if status == 201 else status
    return 0 if worst == 201 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
