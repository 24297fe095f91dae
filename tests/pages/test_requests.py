"""Requests that no browser sends: cut off, said twice, or longer than any form."""

import socket
import time
from urllib.parse import urlencode, urlsplit

import pytest
import requests

from tests.pages.forms import Visitor, note_of
from tests.searched import NAME


@pytest.fixture
def visitor(address):
    return Visitor(address)


def begun(address, text):
    """A connection on which the beginning of a request was sent."""
    parts = urlsplit(address)
    made = socket.create_connection((parts.hostname, parts.port), timeout=60)
    made.sendall(text.replace("\n", "\r\n").encode())
    return made


@pytest.mark.parametrize(
    "text",
    [
        "POST /compress/models/{name}/promote HTTP/1.1\nHost: {host}\nContent-Length: 900\n\ntok",
        "POST /compress/models/{name}/promote HTTP/1.1\nHost: {host}\n"
        "Transfer-Encoding: chunked\n\n9\ntok",
        "GET /compress/models/{name} HTTP/1.1\nHost: {host}\n\n",
    ],
    ids=["in a form", "in a chunk", "before the answer"],
)
def test_who_goes_in_the_middle_leaves_no_trace_in_the_log(address, open_folder, text):
    host = urlsplit(address).netloc
    for _ in range(3):
        begun(address, text.format(name=NAME, host=host)).close()
    time.sleep(1)
    assert requests.get(f"{address}/compress", timeout=60).status_code == 200
    log = (open_folder / "mlflow-server.log").read_text()
    assert "Traceback" not in log and "Exception" not in log


@pytest.mark.parametrize("fields", ["target=kiosk&target=device", "target=&target=device"])
def test_a_field_twice_is_refused_and_nothing_is_done(visitor, client, fields):
    before = client.get_registered_model(NAME).aliases
    headers = {"Origin": visitor.address, "Content-Type": "application/x-www-form-urlencoded"}
    body = f"{urlencode({'token': visitor.token()})}&{fields}"
    answer = visitor.http.post(f"{visitor.page}/promote", data=body, headers=headers, timeout=60)
    assert answer.status_code == 400
    assert note_of(answer) == "the form has the field 'target' twice: send it once"
    assert client.get_registered_model(NAME).aliases == before


def test_a_version_asked_for_twice_is_refused(visitor):
    answer = visitor.get("?version=1&version=2")
    assert (answer.status_code, note_of(answer)) == (
        400,
        "the address has the field 'version' twice: send it once",
    )


@pytest.mark.parametrize("body", ['{"token": "x", "target": "device"}', "a" * 100_000])
def test_what_is_no_form_of_ours_is_refused(visitor, body):
    headers = {"Origin": visitor.address, "Content-Type": "application/json"}
    visitor.get()
    answer = visitor.http.post(f"{visitor.page}/promote", data=body, headers=headers, timeout=60)
    assert answer.status_code == 403
