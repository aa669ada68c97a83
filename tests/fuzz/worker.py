"""Fuzzes one target; started by run.py, with its flags and those of libFuzzer.

python -m tests.fuzz.worker TARGET FOUND SCRATCH -max_total_time=S CORPUS
"""

import pathlib
import random
import sys
import traceback

import atheris

from tests.fuzz.targets import TARGETS, USER_ERRORS, mutated_json


def main() -> None:
    """Runs libFuzzer; every fault is written once into a folder and does not end it."""
    target = TARGETS[sys.argv[1]]
    found, scratch = (pathlib.Path(name) for name in sys.argv[2:4])
    seen: set[str] = set()

    def test_one(content: bytes) -> None:
        try:
            target.run(content, scratch)
        except USER_ERRORS:
            pass
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{type(error).__name__}-{pathlib.Path(last.filename).stem}-{last.lineno}"
            if place not in seen:
                seen.add(place)
                (found / place).write_bytes(content)
                (found / f"{place}.txt").write_text(traceback.format_exc())

    def mutate(content: bytes, max_size: int, seed: int) -> bytes:
        generator = random.Random(seed)
        if generator.random() < 0.6:
            changed = mutated_json(bytes(content), generator)
            if changed is not None and len(changed) <= max_size:
                return changed
        return atheris.Mutate(content, max_size)

    how = {"custom_mutator": mutate} if target.is_json else {}
    atheris.Setup([sys.argv[0], *sys.argv[4:]], test_one, **how)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
