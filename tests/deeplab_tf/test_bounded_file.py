"""Reading takes the memory of the file, not of the limit."""

import os
import resource
import subprocess
import sys

import pytest

from deeplab_tf import bounded_file
from tests.paths import ROOT


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS")
def test_a_small_file_is_read_in_little_memory_under_a_high_limit(tmp_path):
    (tmp_path / "small").write_bytes(b"12345")
    code = (
        "import sys; from deeplab_tf import bounded_file\n"
        "sys.stdout.buffer.write(bounded_file.read_bytes(sys.argv[1], limit=8 << 30))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "small"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30)),
    )
    assert done.stdout == b"12345"


def test_a_file_above_its_limit_and_an_endless_one_are_refused(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert bounded_file.read_bytes(path, limit=5) == b"12345"
    with pytest.raises(ValueError, match="at most 4 bytes, got 5"):
        bounded_file.read_bytes(path, limit=4)
    with pytest.raises(ValueError, match="at most 1,000 bytes, got more"):
        bounded_file.read_bytes("/dev/zero", limit=1000)


def test_a_pipe_is_read_to_its_end(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen([sys.executable, "-c", f"open({str(pipe)!r}, 'w').write('abc')"]):
        assert bounded_file.read_text(pipe) == "abc"
