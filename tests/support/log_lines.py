"""Read the log of a server."""

import json
import socket
from typing import Any

import httpx

from tests.support.servers import Server


def events(server: Server) -> list[dict[str, Any]]:
    """Return every line of the log. Each must be a JSON object."""
    found = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert all(isinstance(event, dict) for event in found)
    return found


def requests(server: Server) -> list[dict[str, Any]]:
    """Return the lines of requests."""
    return [event for event in events(server) if event["event"] == "request"]


def event_of(server: Server, answer: httpx.Response) -> dict[str, Any]:
    """Return the only line of the request with this status."""
    (event,) = [event for event in events_of(server, answer) if event["event"] == "request"]
    return event


def events_of(server: Server, answer: httpx.Response) -> list[dict[str, Any]]:
    """Return all lines that a call has written."""
    return [event for event in events(server) if event.get("request_id") == answer.headers["X-Request-ID"]]


def send_raw(server: Server, request: bytes) -> bytes:
    """Send bytes that no HTTP library would send."""
    host, port = server.environment["BIND"].split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(request)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer
