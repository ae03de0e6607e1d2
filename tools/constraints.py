"""Write constraints.txt: the versions of requirements.lock without their hashes.

pip turns on hash checking for everything as soon as one requirement or constraint has a hash, and then
refuses an editable install, so environment.yml cannot name the lock itself.

    python tools/constraints.py           write constraints.txt
    python tools/constraints.py --check   say whether it is up to date (exit status 1 if not)
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# Made from requirements.lock by tools/constraints.py: do not edit.\n"


def constraints(lock: str) -> str:
    """The text of constraints.txt for a lock's text."""
    lines = [line.removesuffix("\\").rstrip() for line in lock.splitlines()]
    return HEADER + "".join(f"{line}\n" for line in lines if line and not line.startswith((" ", "#")))


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's text in one step, so that no reader ever sees half of it."""
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def main() -> int:
    """Run the command line; return its exit status."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--check", action="store_true", help="change nothing, only compare")
    check = parser.parse_args().check
    path = ROOT / "constraints.txt"
    wanted = constraints((ROOT / "requirements.lock").read_text(encoding="utf-8"))
    if path.exists() and path.read_text(encoding="utf-8") == wanted:
        return 0
    if check:
        print(f"{path.name} is not requirements.lock's: run python tools/constraints.py", file=sys.stderr)
        return 1
    write_atomically(path, wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
