"""What is shown of a framework that failed."""

from export.frameworks import worker


def test_the_exception_is_shown_and_not_what_a_library_prints_after_it():
    lines = [
        "Traceback (most recent call last):",
        '  File "convert.py", line 1, in <module>',
        "TypeError: Exception encountered when calling layer",
        "Expected int32, but got str.",
        "Call arguments received:",
        "  - strides=2",
        "  - padding=VALID",
    ]
    assert worker._exception(lines) == (
        "TypeError: Exception encountered when calling layer | Expected int32, but got str. | "
        "Call arguments received:"
    )
    assert worker._exception(["killed"]) == "killed"
    assert worker._exception([]) == ""
