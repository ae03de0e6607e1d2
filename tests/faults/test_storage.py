"""Disks that are full and folders that are read-only: said clearly, nothing half-written, and the next run goes on."""

import random
import shutil
import subprocess

import pytest
import tiny

exhaustive = pytest.mark.exhaustive


@pytest.fixture
def disk(tmp_path):
    """Makes a disk of so many bytes, in memory."""
    mounted = []

    def make(size):
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no mount here")
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def remount(folder, how):
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("seed", "times"), [(0, 2), *((seed, 4) for seed in range(1, 4))])
def test_a_disk_that_is_full(warm, undisturbed, completed, fault, disk, seed, times):
    folder, draw = disk(8 << 20), random.Random(seed)
    results, ballast = folder / "results", folder / "ballast"
    for _ in range(times):
        # Pages in memory count as 4 KiB; the results and checkpoints of this study need some 20 of them at a time.
        free = draw.randint(0, 24) * 4096
        ballast.unlink(missing_ok=True)
        ballast.write_bytes(bytes(max(0, shutil.disk_usage(folder).free - free)))
        code, output = warm.run(results)
        fault()
        assert code in (0, 74), output
        assert "cannot be written: " in output or code == 0
        assert "Make room there" in output or code == 0
        found = tiny.results(results)
        assert found.items() <= undisturbed["results"].items()
        if code == 0:
            shutil.rmtree(results)
    ballast.unlink()
    completed(results)


@pytest.mark.parametrize(
    ("seed", "times"), [(0, 3), *(pytest.param(seed, 6, marks=exhaustive) for seed in range(1, 3))]
)
def test_writes_that_fail_at_any_byte(warm, undisturbed, completed, fault, tmp_path, seed, times):
    draw = random.Random(seed)
    for _ in range(times):
        code, output = warm.run(tmp_path, kind="bytes", at=draw.randint(0, 8000), die=False)
        fault()
        assert code in (0, 74), output
        assert code == 0 or "cannot be written: " in output
        assert tiny.results(tmp_path).items() <= undisturbed["results"].items()
    completed(tmp_path)


def test_a_folder_that_is_read_only(warm, undisturbed, completed, fault, disk):
    folder = disk(8 << 20)
    remount(folder, "ro")
    code, output = warm.run(folder / "results")
    fault()
    assert code == 74, output
    assert (
        "Momentum-tuning.npz cannot be written: Read-only file system. Choose a folder that can be written to" in output
    )
    assert "generation 1" not in output  # said before anything was computed
    remount(folder, "rw")
    # Half of it made before the folder became read-only, and all of it: what is there is read.
    shutil.copytree(undisturbed["folder"], folder / "results")
    (folder / "results" / "laptop" / "noisy_bowl" / "Adam.npz").unlink()
    remount(folder, "ro")
    code, output = warm.run(folder / "results")
    fault()
    assert code == 74, output
    assert "noisy_bowl/Momentum: " in output
    assert "Adam.npz cannot be written: Read-only file system" in output
    remount(folder, "rw")
    completed(folder / "results")
    remount(folder, "ro")
    fault()
    completed(folder / "results")
