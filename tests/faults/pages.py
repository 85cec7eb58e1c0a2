"""The admin's pages, used as a browser uses them: read a form, change some fields, send it."""

from html.parser import HTMLParser
from typing import Any

import httpx


class NotAnswered(Exception):
    """A page was not answered as it is when all is well. ``status`` is None for a cut
    connection; ``is_sent`` says whether a change may have been made."""

    def __init__(self, status: int | None, *, is_sent: bool) -> None:
        super().__init__(f"answered {status}")
        self.status, self.is_sent = status, is_sent


class AdminPages:
    """An administrator's session; signs in when it has to."""

    def __init__(self, port: int, name: str, password: str) -> None:
        self._name, self._password = name, password
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=40)

    def close(self) -> None:
        self._http.close()

    def add(self, model: str, **values: Any) -> str:
        """Make a row and return the address of the page that changes it."""
        page = f"/admin/licenses/{model}/add/"
        fields = self.form(page)
        return self._send(page, fields | _texts(values) | {"_continue": "1"})

    def add_lines(self, model: str, **values: Any) -> None:
        """Make many rows of one text."""
        page = f"/admin/licenses/{model}/lines/"
        self._send(page, self.form(page) | _texts(values))

    def form(self, page: str) -> dict[str, str]:
        """The fields of a page's form, as a browser would send them unchanged. Raises NotAnswered."""
        answer = self._request("GET", page, is_sent=False)
        if answer.status_code == 302:
            self._sign_in()
            answer = self._request("GET", page, is_sent=False)
        if answer.status_code != 200:
            raise NotAnswered(answer.status_code, is_sent=False)
        return _Form.fields_of(answer.text)

    def send(self, page: str, fields: dict[str, str]) -> None:
        """Send a page's form; raises NotAnswered."""
        self._send(page, fields)

    def _send(self, page: str, fields: dict[str, str]) -> str:
        answer = self._request("POST", page, fields, is_sent=True)
        # Whatever was sent to a form goes back to it with what is wrong.
        if answer.status_code != 302:
            raise NotAnswered(answer.status_code, is_sent=True)
        if "/login/" in answer.headers["Location"]:
            raise NotAnswered(302, is_sent=False)
        return answer.headers["Location"]

    def _sign_in(self) -> None:
        page = "/admin/login/"
        fields = _Form.fields_of(self._request("GET", page, is_sent=False).text)
        fields |= {"username": self._name, "password": self._password, "next": "/admin/"}
        answer = self._request("POST", page, fields, is_sent=False)
        if answer.status_code != 302:
            raise NotAnswered(answer.status_code, is_sent=False)

    def _request(
        self, method: str, page: str, fields: dict[str, str] | None = None, *, is_sent: bool
    ) -> httpx.Response:
        try:
            return self._http.request(method, page, data=fields)
        except httpx.TransportError:
            raise NotAnswered(None, is_sent=is_sent) from None


def _texts(values: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items()}


class _Form(HTMLParser):
    """Collects the fields of the page's forms that post; the sign-out's has none."""

    def __init__(self) -> None:
        super().__init__()
        self.fields: dict[str, str] = {}
        self._select = self._area = ""

    @classmethod
    def fields_of(cls, page: str) -> dict[str, str]:
        form = cls()
        form.feed(page)
        return form.fields

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        name, value = found.get("name") or "", found.get("value") or ""
        if tag == "input" and name:
            kind = found.get("type")
            if kind in {"submit", "button", "file", "reset"}:
                return
            if kind in {"checkbox", "radio"}:
                if "checked" in found:
                    self.fields[name] = value or "on"
                return
            self.fields[name] = value
        elif tag == "select":
            self._select = name
            self.fields[name] = ""
        elif tag == "option" and self._select and "selected" in found:
            self.fields[self._select] = value
        elif tag == "textarea":
            self._area = name
            self.fields[name] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            self._select = ""
        elif tag == "textarea":
            self._area = ""

    def handle_data(self, data: str) -> None:
        if self._area:
            self.fields[self._area] += data.removeprefix("\n")
