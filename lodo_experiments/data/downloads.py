"""Fetching original files, from mirrors or a local folder, and checking every byte of them.

Not by pooch, which would bring two more packages and lacks what most of this is for: a limit of size, one deadline for
all mirrors that covers the resolution of names, and local folders.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time
import urllib.parse
import urllib.request
from concurrent.futures import Future, wait
from pathlib import Path
from typing import IO

from lodo_experiments.data.catalogue import DataError, RemoteFile, Source

#: Seconds in which the first answer has to come, all mirrors together.
CONNECT_SECONDS = 4.0
#: Seconds without a byte after which a transfer that had begun is given up.
STALL_SECONDS = 30.0

_CHUNK = 1 << 16


def report(line: str) -> None:
    """Print a line of progress: over the last one on a terminal, below it elsewhere."""
    terminal = sys.stderr.isatty()
    print(f"\r\x1b[K{line}" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)


def fetch(entry: Source, folder: Path, source: str | os.PathLike[str] | None = None) -> None:
    """Bring the original files of a data set into an existing folder: from the mirrors, or from a local ``source``.

    Raises:
      DataError: a file that cannot be had, or is not the one the catalogue describes.
    """
    mirrors = list(entry.mirrors) if source is None else [_local_address(source)]
    deadline = time.monotonic() + CONNECT_SECONDS
    for file in entry.files:
        failures = []
        for position, mirror in enumerate(list(mirrors)):
            url = urllib.parse.urljoin(mirror, file.name)
            try:
                # While nothing has answered yet, the mirrors share the time; later each gets all of it.
                left = (deadline - time.monotonic()) / (len(mirrors) - position)
                with _open(url, left if file is entry.files[0] else CONNECT_SECONDS) as stream:
                    _copy(stream, file, folder / file.name, url)
                mirrors.insert(0, mirrors.pop(mirrors.index(mirror)))
                break
            except (OSError, DataError) as error:
                failures.append(f"  {url}: {error}")
        else:
            if source is not None:
                names = ", ".join(each.name for each in entry.files)
                raise DataError("\n".join(["cannot copy:", *failures, f"source must be a folder with {names}."]))
            raise DataError(
                f"{entry.name} cannot be downloaded:\n" + "\n".join(failures) + "\nTwo ways on: try again with a "
                f"connection (python -m lodo_experiments.data {entry.name} --download; --source FOLDER takes the "
                "original files from a local folder), or set TFDS_DATA_DIR to a folder with prepared data."
            )


def _local_address(source: str | os.PathLike[str]) -> str:
    text = os.fspath(source)
    if text.startswith("file:"):
        return text.rstrip("/") + "/"
    if "://" in text:
        raise DataError(f"source must be a local folder or a file:// address; got {text!r}.")
    return Path(text).expanduser().resolve().as_uri() + "/"


def _open(url: str, seconds: float) -> IO[bytes]:
    """Open an address within a time that covers the name's resolution, which sockets' timeouts do not."""
    answer: Future[IO[bytes]] = Future()

    def connect() -> None:
        try:
            request = urllib.request.Request(url, headers={"User-Agent": "lodo"})
            answer.set_result(urllib.request.urlopen(request, timeout=STALL_SECONDS))
        except OSError as error:
            answer.set_exception(error)
        except Exception as error:
            answer.set_exception(OSError(str(error)))

    threading.Thread(target=connect, daemon=True).start()
    if not wait([answer], max(0.0, seconds)).done:
        raise TimeoutError(f"no answer within {max(0.0, seconds):.1f} seconds")
    return answer.result()


def _copy(stream: IO[bytes], file: RemoteFile, target: Path, origin: str) -> None:
    sha256 = hashlib.sha256()
    done, last, start = 0, -1, time.monotonic()
    try:
        with target.open("wb") as out:
            while chunk := stream.read(_CHUNK):
                done += len(chunk)
                if done > file.size:
                    raise DataError(f"{origin} is longer than {file.size:,} bytes; refused.")
                out.write(chunk)
                sha256.update(chunk)
                tenth = 10 * done // file.size
                if tenth != last:
                    last = tenth
                    rate = done / 1e6 / max(time.monotonic() - start, 1e-9)
                    report(f"{file.name}: {done / 1e6:.1f} of {file.size / 1e6:.1f} MB ({rate:.1f} MB/s)")
        if done != file.size:
            raise DataError(f"{origin} ended after {done:,} of {file.size:,} bytes; refused.")
        if sha256.hexdigest() != file.sha256:
            raise DataError(
                f"{origin} is not the expected file: SHA-256 {sha256.hexdigest()}, expected {file.sha256}; refused."
            )
    except BaseException:
        target.unlink(missing_ok=True)
        raise
