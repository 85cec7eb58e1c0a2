"""A TCP proxy between clients and server that can cut, delay and repeat."""

import asyncio
import contextlib
import random
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, cast


@dataclass
class Weather:
    """What the network does at the moment; chances are per message."""

    cut: float = 0.0
    delay_seconds: float = 0.0
    repeat: float = 0.0


CALM = Weather()


class Proxy:
    """Forwards each connection to the server's port on 127.0.0.1.

    A message here is what one read of a socket gives. A cut drops the
    connection before a message is passed on, in its middle, or after it, so
    that the client cannot know whether the server has heard it.
    """

    def __init__(self, target: int, seed: int) -> None:
        self.target = target
        self.weather = CALM
        self.cuts = 0
        self.repeats = 0
        self.chance = random.Random(seed)
        self.loop = asyncio.new_event_loop()
        # Kept, since the loop itself forgets them.
        self.tasks: set[asyncio.Task[None]] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self.port = 0

    def start(self) -> None:
        """Listen on a free port, in a thread of its own."""
        self._thread.start()
        self._ready.wait(10)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        server = self.loop.run_until_complete(self.loop.create_server(lambda: _Front(self), "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self.loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self.loop.close()

    async def repeat(self, message: bytes) -> None:
        """Send the same request on a connection of its own, and drop the answer."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            return
        self.repeats += 1
        writer.write(message)
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(reader.read(1), 5)
        writer.close()


class _Side(asyncio.Protocol):
    """One of the two connections of a client; what comes in here goes out at the ``other``."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.transport: asyncio.Transport | None = None
        self.other: _Side | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.proxy.weather is CALM:
            self.pass_on(data)
            return
        # Nothing is read meanwhile: messages stay in order.
        if self.transport is not None:
            self.transport.pause_reading()
        self.run(self._pass_through(data, self.proxy.weather))

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.proxy.loop.create_task(work)
        self.proxy.tasks.add(task)
        task.add_done_callback(self.proxy.tasks.discard)

    def pass_on(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def close(self) -> None:
        for side in (self, self.other):
            if side is not None and side.transport is not None:
                side.transport.close()

    async def _pass_through(self, message: bytes, weather: Weather) -> None:
        chance = self.proxy.chance
        if weather.delay_seconds:
            await asyncio.sleep(chance.random() * weather.delay_seconds)
        if chance.random() < weather.cut:
            self.proxy.cuts += 1
            # Before it, in its middle, or after it.
            self.pass_on(message[: chance.choice([0, len(message) // 2, len(message)])])
            self.close()
            return
        if _is_repeatable(message) and chance.random() < weather.repeat:
            await self.proxy.repeat(message)
        self.pass_on(message)
        if self.transport is not None:
            self.transport.resume_reading()


class _Front(_Side):
    """The connection that a client has opened."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        cast(asyncio.Transport, transport).pause_reading()
        self.run(self._connect())

    async def _connect(self) -> None:
        back = _Side(self.proxy)
        back.other = self
        try:
            await self.proxy.loop.create_connection(lambda: back, "127.0.0.1", self.proxy.target)
        except OSError:
            self.close()
            return
        self.other = back
        if self.transport is None:
            # The client is gone.
            back.close()
        else:
            self.transport.resume_reading()


def _is_repeatable(message: bytes) -> bool:
    """Whether it is a whole borrow with an idempotency key, which may arrive twice."""
    head, end, body = message.partition(b"\r\n\r\n")
    return head.startswith(b"POST /licenses/borrow") and b"idempotency-key" in head.lower() and bool(end and body)
