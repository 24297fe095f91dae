"""A visitor who loads a page and sends its forms, as a browser would."""

import html
import re

import requests

from tests.searched import NAME


class Visitor:
    def __init__(self, address, user=None):
        self.address = address
        self.page = f"{address}/compress/models/{NAME}"
        self.http = requests.Session()
        self.http.auth = user
        # the machine's own .netrc would log anybody in
        self.http.trust_env = False

    def get(self, path=""):
        return self.http.get(f"{self.page}{path}", timeout=120)

    def token(self):
        found = re.search(r'name="token" value="(\w+)"', self.get().text)
        return found[1] if found else ""

    def send(self, action, origin=None, token=None, **fields):
        """Send a form; returns the answer, after the page it leads to was loaded."""
        fields["token"] = self.token() if token is None else token
        headers = {} if origin == "" else {"Origin": origin or self.address}
        return self.http.post(f"{self.page}/{action}", data=fields, headers=headers, timeout=300)


def note_of(answer):
    """The text of a page's note, as a person reads it."""
    found = re.search(r'<p class="note[^>]*>(.*?)</p>', answer.text, re.DOTALL)
    return html.unescape(found[1]) if found else ""
