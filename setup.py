"""What pyproject.toml cannot say: the wheel holds the records that come with the project.

So its pages can be made wherever it is installed, from records of the same commit.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
#: Of the results folder; MANIFEST.in has the same for the source distribution.
SCALES = ("paper", "laptop", "benchmarks")
INSIDE = Path("lodo_experiments", "kept_results")


class BuildWithRecords(build_py):
    """The packages, and beside the experiments a copy of the records."""

    def run(self):
        """Build, and copy."""
        super().run()
        if not self.editable_mode:  # a checkout's own folder is used there
            for source, target in self._records().items():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)

    def get_outputs(self, include_bytecode=True):
        """The files that `run` makes."""
        own = [] if self.editable_mode else [str(target) for target in self._records().values()]
        return [*super().get_outputs(include_bytecode), *own]

    def _records(self):
        results = ROOT / "results"
        found = [path for scale in SCALES for path in (results / scale).rglob("*.npz")]
        found = [path for path in found if not any(part.startswith(".") for part in path.relative_to(results).parts)]
        found += results.glob("*.json")
        return {path: Path(self.build_lib) / INSIDE / path.relative_to(results) for path in sorted(found)}


setup(cmdclass={"build_py": BuildWithRecords})
