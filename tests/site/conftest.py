"""The book, built once for all tests of it, a web server that serves it, and a browser."""

import functools
import http.server
import os
import shutil
import threading
from pathlib import Path

import pytest
import yaml
from building import ADDRESS, ROOT, SITE, built

#: The pages whose look depends on the repository's address, one of each kind.
PUBLISHED = ("book/algorithm", "book/run", "notebooks/noisy_bowl", "notebooks/claims")


@pytest.fixture(scope="session")
def site(executed) -> Path:
    """The book as built from a repository whose address is not known."""
    return built(ROOT / "_build" / "tests" / "unknown")


@pytest.fixture(scope="session")
def published_site(executed) -> Path:
    """Some pages of the book as built from a repository with a public address; links to the others lead nowhere."""
    output = ROOT / "_build" / "tests" / "published"
    output.mkdir(parents=True, exist_ok=True)
    contents = {"format": "jb-book", "root": "book/index", "chapters": [{"file": name} for name in PUBLISHED]}
    (output / "toc.yml").write_text(yaml.safe_dump(contents), encoding="utf-8")
    return built(output, "--toc", output / "toc.yml", LODO_REPOSITORY=ADDRESS, LODO_SITE=SITE)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *arguments):
        pass


@pytest.fixture(scope="session")
def server(site):
    """The root address of a local server of the site."""
    handler = functools.partial(_Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Chromium, driven by playwright; required in continuous integration."""
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        missing = f"no browser: looked for {', '.join(names)} on the PATH"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    from playwright.sync_api import sync_playwright

    flags = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
               --disable-component-update --disable-sync --disable-dev-shm-usage"""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=flags.split())
        yield chromium
        chromium.close()
