"""What the gate says of a file that it refuses."""

import pytest

from export.conversion.gate import in_one_line


@pytest.mark.parametrize(
    ("count", "line"),
    [
        (1, "fault 0"),
        (3, "fault 0; fault 1; fault 2"),
        (5, "fault 0; fault 1; fault 2; and 2 more"),
    ],
)
def test_a_refused_file_is_described_in_one_short_line(count, line):
    assert in_one_line([f"fault {number}" for number in range(count)]) == line
