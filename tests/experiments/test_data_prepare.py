"""Fetching and preparing: all or nothing, checked to the byte, and the same as tensorflow-datasets' own."""

import dataclasses
import functools
import http.server
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from image_cases import tiny_source

from lodo_experiments.data import CATALOGUE, DataError, downloads, prepare
from lodo_experiments.data.images import load_images

RAW = Path(__file__).resolve().parents[3] / "shared" / "data" / "mnist-raw"
PREPARED = RAW.parent / "tfds"


@pytest.fixture
def tiny(tmp_path):
    """(catalogue entry, its images, the folder of its files, an empty data folder)."""
    entry, arrays = tiny_source(tmp_path / "original")
    (tmp_path / "data").mkdir()
    return entry, arrays, tmp_path / "original", tmp_path / "data"


@pytest.fixture
def serve():
    """Serve folders on the loopback; returns their addresses."""
    servers = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    def start(folder):
        handler = functools.partial(Quiet, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def rows(images: np.ndarray) -> list[bytes]:
    return sorted(image.tobytes() for image in images)


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_local_folder_becomes_prepared_data(tiny, form, capsys):
    entry, arrays, original, data = tiny
    dataset = load_images(entry, data_dir=data, download=True, source=form.format(original))
    assert rows(np.concatenate([dataset.train.images, dataset.validation.images])) == rows(arrays["train"])
    assert rows(dataset.test.images) == rows(arrays["test"])
    assert len(dataset.validation.images) == 3
    assert [path.name for path in data.iterdir()] == ["mnist"]
    assert "preparing 17 images" in capsys.readouterr().err
    # From now on it is read where it lies.
    assert load_images(entry, data_dir=data).fingerprint == dataset.fingerprint


def test_mirrors_are_tried_in_turn(tiny, serve, tmp_path, capsys):
    entry, arrays, original, data = tiny
    (tmp_path / "empty").mkdir()
    entry = dataclasses.replace(entry, mirrors=(serve(tmp_path / "empty"), serve(original)))
    prepare.prepare(entry, data)
    assert rows(load_images(entry, data_dir=data).test.images) == rows(arrays["test"])
    assert "t10k-labels-idx1-ubyte.gz: " in capsys.readouterr().err


def damage(content: bytes, how: str) -> bytes:
    flipped = content[:40] + bytes([content[40] ^ 1]) + content[41:]
    return {"flipped": flipped, "shorter": content[:-1], "longer": content + b"x"}[how]


@pytest.mark.parametrize(
    ("how", "message"),
    [("flipped", "not the expected file"), ("shorter", "ended after"), ("longer", "longer than")],
)
@pytest.mark.parametrize("remote", [False, True])
def test_a_damaged_file_is_refused_and_leaves_nothing(tiny, serve, how, message, remote):
    entry, _, original, data = tiny
    path = original / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes(), how))
    entry = dataclasses.replace(entry, mirrors=(serve(original),))
    with pytest.raises(DataError, match=message):
        prepare.prepare(entry, data, source=None if remote else original)
    assert list(data.iterdir()) == []


def test_a_failure_while_preparing_leaves_nothing(tiny, monkeypatch):
    entry, _, original, data = tiny
    monkeypatch.setattr(prepare, "_png", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare.prepare(entry, data, source=original)
    assert list(data.iterdir()) == []


@pytest.mark.parametrize("source", ["nowhere", "https://example.org/mnist"])
def test_a_source_that_is_no_folder_is_refused(tiny, source):
    entry, *_, data = tiny
    with pytest.raises(DataError, match="source must be a"):
        prepare.prepare(entry, data, source=source)
    assert list(data.iterdir()) == []


def test_a_data_folder_that_is_a_file_is_refused(tiny):
    entry, _, original, data = tiny
    (data / "file").touch()
    with pytest.raises(DataError, match="Give another folder"):
        prepare.prepare(entry, data / "file", source=original)


def test_without_an_answer_the_error_names_mirrors_and_ways_on(tiny, monkeypatch):
    """One mirror refuses, one accepts and says nothing: the wait is bounded by the fetcher's own limit."""
    entry, *_, data = tiny
    monkeypatch.setattr(downloads, "CONNECT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        refused = f"http://127.0.0.1:{closed.getsockname()[1]}/"
    with socket.create_server(("127.0.0.1", 0)) as mute:
        silent = f"http://127.0.0.1:{mute.getsockname()[1]}/"
        entry = dataclasses.replace(entry, mirrors=(silent, refused))
        start = time.monotonic()
        with pytest.raises(DataError) as error:
            prepare.prepare(entry, data)
        # Not a speed: the stalled connection's own limit is 30 seconds.
        assert time.monotonic() - start < downloads.STALL_SECONDS / 2
    for part in (refused, silent, "no answer within", "--source FOLDER", "TFDS_DATA_DIR"):
        assert part in str(error.value)
    assert list(data.iterdir()) == []


def test_the_limit_for_an_answer_is_under_five_seconds():
    assert downloads.CONNECT_SECONDS < 5


def test_whoever_is_second_keeps_the_firsts_copy(tiny, monkeypatch):
    entry, arrays, original, data = tiny
    build = prepare._build

    def build_after_another(*arguments):
        monkeypatch.setattr(prepare, "_build", build)
        prepare.prepare(entry, data, source=original)
        (entry.folder(data) / "first").touch()
        build(*arguments)

    monkeypatch.setattr(prepare, "_build", build_after_another)
    prepare.prepare(entry, data, source=original)
    assert (entry.folder(data) / "first").exists()
    assert rows(load_images(entry, data_dir=data).test.images) == rows(arrays["test"])
    assert [path.name for path in data.iterdir()] == ["mnist"]


def test_damaged_prepared_data_are_refused(tiny):
    entry, _, original, data = tiny
    prepare.prepare(entry, data, source=original)
    (path,) = entry.folder(data).glob("*train*")
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(DataError, match="cannot read the split 'train'"):
        load_images(entry, data_dir=data)


@pytest.mark.slow
@pytest.mark.skipif(not (RAW.exists() and PREPARED.exists()), reason="no original files of MNIST beside the project")
def test_mnist_is_prepared_as_tensorflow_datasets_does(tmp_path):
    """The test split of the real files: the same examples in the same order as in data prepared elsewhere."""
    mnist = CATALOGUE["mnist"]

    def read(folder):
        train, test = (mnist.read(folder)[split] for split in ("train", "test"))
        return {"train": (train[0][:100], train[1][:100]), "test": test}

    entry = dataclasses.replace(mnist, counts={"train": 100, "test": 10_000}, read=read)
    prepare.prepare(entry, tmp_path, source=RAW)
    ours, theirs = (prepare.array_records.read_split(entry, folder, "test") for folder in (tmp_path, PREPARED))
    assert np.array_equal(ours[0], theirs[0])
    assert ours[1].tolist() == theirs[1].tolist()
    assert np.bincount(ours[1]).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
