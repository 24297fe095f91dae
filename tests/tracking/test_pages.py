from itertools import count

import pytest

from mlflow_compress.errors import UnreachableError
from mlflow_compress.tracking import pages as listing
from mlflow_compress.tracking.pages import every, up_to, version_number


class Page(list):
    def __init__(self, items, token):
        super().__init__(items)
        self.token = token


PAGES = {None: Page([1, 2], "b"), "b": Page([], "c"), "c": Page([3], "")}


def test_every_page_is_read_an_empty_one_too():
    assert list(every(PAGES.__getitem__)) == [1, 2, 3]


def test_no_more_pages_are_asked_for_than_are_needed():
    asked = []
    assert up_to(2, lambda token: asked.append(token) or PAGES[token]) == [1, 2]
    assert asked == [None]
    assert up_to(9, PAGES.__getitem__) == [1, 2, 3]


def test_pages_without_end_end(monkeypatch):
    with pytest.raises(UnreachableError, match="pages without end"):
        list(every(lambda _: Page([], "same")))
    monkeypatch.setattr(listing, "_MOST_PAGES", 10)
    numbers = count()
    with pytest.raises(UnreachableError, match="pages without end"):
        list(every(lambda _: Page([], str(next(numbers)))))


def test_versions_are_numbers():
    assert version_number("12") == version_number(12) == 12
    for text in ("", "x", None, "1.5"):
        with pytest.raises(UnreachableError, match="which is no number"):
            version_number(text)
