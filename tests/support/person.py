"""Act as a person with a browser, by HTTP only."""

import re

import httpx

PASSWORD = "a long pass phrase"


class Person:
    """Sign in with a password, and answer programs."""

    def __init__(self, url: str, name: str) -> None:
        self.client = httpx.Client(base_url=url, follow_redirects=True)
        self.submit("/signin/", username=name, password=PASSWORD)

    def submit(self, page: str, address: str = "", **form: str) -> httpx.Response:
        """Open a page and send its form to an address, by default the page's."""
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', self.client.get(page).text)
        assert token, page
        headers = {"Referer": str(self.client.base_url)}
        answer = self.client.post(address or page, data={"csrfmiddlewaretoken": token[1], **form}, headers=headers)
        answer.raise_for_status()
        return answer

    def answer(self, code: str, answer: str = "approve") -> None:
        """Approve or deny the program with this code."""
        self.submit(f"/device/?code={code}", "/device/answer/", code=code, answer=answer)
