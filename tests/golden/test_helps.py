"""What users type stays what it is: no command, option or default changes unnoticed."""

from tests.golden.helps import FILE, helps


def test_the_help_of_every_command():
    """After a change on purpose: ``python -m tests.golden.helps`` writes the file anew."""
    assert helps() == FILE.read_text(encoding="utf-8")
