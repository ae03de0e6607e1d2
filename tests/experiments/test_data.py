"""Loading images: the splits, what is refused, and where it says to look."""

import json

import numpy as np
import pytest
from sklearn.datasets import load_digits

from lodo_experiments.data import CATALOGUE, DataError, Split, __main__, fingerprint, load_images


def test_digits_are_scikit_learns_each_once():
    digits = load_images("digits")
    splits = (digits.train, digits.validation, digits.test)
    assert [len(split.images) for split in splits] == [1373, 64, 360]
    ours = sorted(
        (image.tobytes(), int(label))
        for split in splits
        for image, label in zip(split.images, split.labels, strict=True)
    )
    whole = load_digits()
    theirs = sorted(
        (image.astype(np.uint8).tobytes(), int(label)) for image, label in zip(whole.images, whole.target, strict=True)
    )
    assert ours == theirs
    assert max(split.images.max() for split in splits) == digits.levels - 1


def test_digits_are_split_alike_every_time_and_evenly():
    digits = load_images("digits")
    assert digits.fingerprint == load_images("digits").fingerprint
    # In scikit-learn's own order the last images come from few writers; a shuffled split has all classes.
    for split in (digits.validation, digits.test):
        shares = np.bincount(split.labels, minlength=10) / len(split.labels)
        assert shares.min() > 0.03


def test_fingerprint_sees_a_pixel_a_label_and_the_border_between_splits():
    images, labels = np.zeros((3, 2, 2), np.uint8), np.zeros(3, np.uint8)
    pixel, label = images.copy(), labels.copy()
    pixel[1, 0, 1] = 1
    label[2] = 1
    prints = {
        fingerprint(Split(images, labels)),
        fingerprint(Split(pixel, labels)),
        fingerprint(Split(images, label)),
        fingerprint(Split(images[:1], labels[:1]), Split(images[1:], labels[1:])),
    }
    assert len(prints) == 4


def test_missing_data_are_named_at_once_with_both_ways_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("network was asked"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(DataError) as error:
        load_images("mnist")
    for part in (str(tmp_path), "download=True", "lodo_experiments.data mnist --download", "TFDS_DATA_DIR"):
        assert part in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "mnits"}, "'digits', 'mnist'"),
        ({"name": "mnist", "source": "somewhere"}, "download=True"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_images(**arguments)


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"name": "mnist"}, "tfrecord"),
        ({"name": "mnist", "fileFormat": "riegeli"}, "riegeli"),
        ({"name": "mnist", "fileFormat": "array_record"}, "lacks the files of the split 'train'"),
        ([], "no prepared data"),
        (None, "no prepared data"),
    ],
)
def test_something_else_in_the_datas_place_is_refused(tmp_path, info, message):
    folder = CATALOGUE["mnist"].folder(tmp_path)
    folder.mkdir(parents=True)
    if info is not None:
        (folder / "dataset_info.json").write_text(json.dumps(info))
    for download in (False, True):
        with pytest.raises(DataError, match=message):
            load_images("mnist", data_dir=tmp_path, download=download)


def test_command_line(tmp_path, capsys):
    assert __main__.main(["digits"]) == 0
    assert load_images("digits").fingerprint in capsys.readouterr().out
    assert __main__.main(["mnist", "--data-dir", str(tmp_path)]) == 1
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.startswith("error: mnist 3.0.1 is not prepared")
    for bad in (["mnist", "--source", "x"], ["imagenet"], []):
        with pytest.raises(SystemExit, match="2"):
            __main__.main(bad)
