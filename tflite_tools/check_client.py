"""Checks whether a program reads a `.tflite` correctly, before it misreads it without an error.

python -m tflite_tools.check_client --model=int8.tflite --client=mediapipe

Exit status 0: accepted as it is (perhaps slower than it could be); 1: refused.
"""

import pathlib
import sys

from absl import flags, logging

from deeplab_tf import command
from tflite_tools.deployment.client_rules import Client, check_file, findings_text

FLAGS = flags.FLAGS


def _define_flags() -> None:
    names = ", ".join(client.value for client in Client)
    flags.DEFINE_list("model", "", "Files to check.")
    flags.DEFINE_list("client", "mediapipe", f"Programs that read them: {names}.")


def main() -> int:
    """Checks every file for every client and prints the findings.

    Returns:
        1 if a file is refused or cannot be read, else 0.
    """
    paths = [pathlib.Path(name) for name in FLAGS.model if name]
    if not paths:
        raise ValueError("expected a file, got none; give --model=FILE[,FILE...]")
    clients = command.enum_members("client", FLAGS.client, kind=Client)
    if not clients:
        names = ", ".join(client.value for client in Client)
        raise ValueError(f"expected a client, got none; give --client, one or more of {names}")
    refused = False
    unread = 0
    for path in paths:
        for client in clients:
            try:
                findings = check_file(path, client)
            except (ValueError, OSError) as error:
                if len(paths) == 1:
                    raise
                logging.error("%s", " ".join(str(error).split()))
                unread += 1
                break
            refused |= any(finding.fatal for finding in findings)
            sys.stdout.write(findings_text(path, client, findings=findings) + "\n")
    if unread:
        sys.stdout.write(f"{unread} of {len(paths)} files could not be read\n")
    return 1 if refused or unread else 0


def console() -> None:
    """Runs the command."""
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()
