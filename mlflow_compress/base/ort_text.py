"""What onnxruntime says, in one line and with what to do about it."""

__all__ = ["ort_line"]

_LONGEST = 400
"""Characters that are shown; it adds the state of a kernel to some."""

_ADVICE = {
    "umpy type": "in Python it takes and gives no such numbers: let the model cast to float32",
    "umpy_type": "in Python it takes and gives no such numbers: let the model cast to float32",
    "Could not find an implementation": "it may have one for an earlier opset, or for float32",
    "not a registered function/op": "operators of one's own have to be functions in the model",
    "Unsupported model IR version": "upgrade onnxruntime, or export the model for an older one",
}
"""What helps, by a part of what it says."""


def ort_line(error: BaseException) -> str:
    """Return an error of onnxruntime in one line: its first may stop in the middle."""
    text = " ".join(str(error).split())
    advice = next((advice for part, advice in _ADVICE.items() if part in text), None)
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    return text if advice is None else f"{text} ({advice})"
