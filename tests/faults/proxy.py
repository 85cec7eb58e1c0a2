"""A TCP proxy between clients and server that can cut, delay and repeat."""

import asyncio
import contextlib
import random
import threading
from dataclasses import dataclass


@dataclass
class Weather:
    """What the network does at the moment; chances are per message."""

    cut: float = 0.0
    delay_seconds: float = 0.0
    repeat: float = 0.0


class Proxy:
    """Forwards each connection to the server's port on 127.0.0.1.

    A message here is what one read of a socket gives. A cut drops the
    connection before a message is passed on, in its middle, or after it, so
    that the client cannot know whether the server has heard it.
    """

    def __init__(self, target: int, seed: int) -> None:
        self.target = target
        self.weather = Weather()
        self.cuts = 0
        self.repeats = 0
        self._chance = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self.port = 0

    def start(self) -> None:
        """Listen on a free port, in a thread of its own."""
        self._thread.start()
        self._ready.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        to_server: asyncio.StreamWriter | None = None
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", self.target)
            forward = asyncio.create_task(self._forward(client, to_server))
            back = asyncio.create_task(self._forward(server, to_client))
            _, pending = await asyncio.wait({forward, back}, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            await asyncio.gather(forward, back, return_exceptions=True)
        except OSError:
            pass
        finally:
            for writer in (to_client, to_server):
                if writer is not None:
                    with contextlib.suppress(OSError, RuntimeError):
                        writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while message := await reader.read(64 * 1024):
            if self.weather.delay_seconds:
                await asyncio.sleep(self._chance.random() * self.weather.delay_seconds)
            if self._chance.random() < self.weather.cut:
                self.cuts += 1
                # Before it, in its middle, or after it.
                writer.write(message[: self._chance.choice([0, len(message) // 2, len(message)])])
                with contextlib.suppress(OSError):
                    await writer.drain()
                return
            if self._is_repeatable(message) and self._chance.random() < self.weather.repeat:
                await self._repeat(message)
            writer.write(message)
            await writer.drain()

    @staticmethod
    def _is_repeatable(message: bytes) -> bool:
        """Whether it is a whole borrow with an idempotency key, which may arrive twice."""
        head, end, body = message.partition(b"\r\n\r\n")
        return head.startswith(b"POST /licenses/borrow") and b"idempotency-key" in head.lower() and bool(end and body)

    async def _repeat(self, message: bytes) -> None:
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
