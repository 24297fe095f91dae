import pytest
import requests
from mlflow.exceptions import MlflowException

from mlflow_compress.errors import CompressError, SourceError, UnreachableError
from mlflow_compress.tracking.patience import is_transient, patiently


def failing(times, error):
    calls = []

    def call():
        calls.append(1)
        if len(calls) <= times:
            raise error
        return len(calls)

    return call


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("boom", error_code=1),  # INTERNAL_ERROR, what a 500 without a body gives
        MlflowException("busy", error_code=2),  # TEMPORARILY_UNAVAILABLE
        ConnectionResetError("gone"),
        TimeoutError("slow"),
    ],
)
def test_what_passes_is_tried_again(error):
    assert is_transient(error)
    assert patiently("work", failing(2, error), 5, first_wait=0.001) == 3


def test_a_name_that_is_no_text_is_not_tried_again():
    told = "'utf-8' codec can't encode character '\\udcff' in position 5: surrogates not allowed"
    assert not is_transient(MlflowException(told, error_code=1))


@pytest.mark.parametrize("text", ["database or disk is full", "disk I/O error"])
def test_a_full_disk_is_not_waited_for(text):
    error = MlflowException(f"(sqlite3.OperationalError) {text}", error_code=2)
    with pytest.raises(UnreachableError, match=f"cannot work: .*{text}"):
        patiently("work", failing(1, error), 5)
    assert not is_transient(OSError(28, "No space left on device"))


@pytest.mark.parametrize(
    "text",
    [
        "(sqlite3.IntegrityError) UNIQUE",
        "BAD_REQUEST: (psycopg2.errors.UniqueViolation) duplicate key value violates unique "
        'constraint "registered_model_alias_pk"',
        "(psycopg2.errors.SerializationFailure) could not serialize access",
    ],
)
def test_two_writers_of_one_row_try_again(text):
    error = MlflowException(text, error_code=1000)
    assert patiently("work", failing(1, error), 5, first_wait=0.001) == 2


def test_it_ends_after_a_bounded_time():
    error = MlflowException("boom\nwith lines", error_code=1)
    with pytest.raises(UnreachableError) as caught:
        patiently("move the alias", failing(10**6, error), 0.05, first_wait=0.001)
    assert str(caught.value) == "cannot move the alias: no success within 0.05 s: boom with lines"
    assert caught.value.exit_code == 5


def test_what_is_refused_for_good_is_not_tried_again():
    error = MlflowException("no such run", error_code=1001)
    with pytest.raises(CompressError, match="cannot work: no such run") as caught:
        patiently("work", failing(1, error), 5, first_wait=0.001)
    assert not isinstance(caught.value, UnreachableError)


def test_a_disk_that_cannot_be_written_is_out_of_reach_at_once():
    with pytest.raises(UnreachableError, match="read-only"):
        patiently("work", failing(1, PermissionError("read-only")), 5)


def wrapped(inner, reason=None):
    """Return a connection error as requests makes them, around another."""
    between = RuntimeError("max retries exceeded", inner)
    between.reason = reason
    return requests.ConnectionError(between)


def in_a_circle():
    error = requests.ConnectionError("round and round")
    error.__cause__ = wrapped(error)
    return error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (wrapped(None, ConnectionRefusedError(111, "Connection refused")), "Connection refused"),
        (wrapped(ConnectionResetError(104, "Connection reset")), "Connection reset"),
        (wrapped(None, "a text"), "max retries exceeded"),
        (wrapped(UnicodeError("label too long"), "label too long"), "label too long"),
        (in_a_circle(), "round and round"),
    ],
)
def test_what_the_system_said_is_told_however_deep_it_is(error, told):
    with pytest.raises(UnreachableError, match=f"cannot reach it: .*{told}") as caught:
        patiently("reach it", failing(10**6, error), 0.01, first_wait=0.001)
    assert "\n" not in str(caught.value)


def test_errors_of_this_project_pass_through():
    with pytest.raises(SourceError):
        patiently("work", failing(1, SourceError("x")), 5)


def test_a_programming_error_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        patiently("work", failing(1, ZeroDivisionError()), 5)
