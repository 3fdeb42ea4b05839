"""A server in a process of its own, so that its memory can be read: prints its port, ends with its standard input."""

from __future__ import annotations

import asyncio
import sys

from tests.vla.serving.worlds import toy
from vla.serving.server import ServerOptions, running
from vla.serving.wire import WireLimits


async def main() -> None:
    options = ServerOptions(
        port=0,
        limits=WireLimits(max_bytes=1024 * 1024),
        open_timeout_s=10.0,
        send_timeout_s=10.0,
        ping_interval_s=3.0,
        ping_timeout_s=10.0,
    )
    async with running(toy("build_echo", horizon=20_000), options) as server:
        print(server.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
