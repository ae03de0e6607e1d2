"""What pyproject.toml cannot say: the wheel holds the records that come with the project.

So its pages can be made wherever it is installed, from records of the same commit.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
#: Folders of the results that are made here and kept by nobody; MANIFEST.in leaves them out of the source distribution.
LEFT_OUT = {"smoke", "changed"}
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
        parts = {path: path.relative_to(results).parts for path in results.rglob("*.npz")}
        found = [path for path, own in parts.items() if own[0] not in LEFT_OUT and "." not in {part[0] for part in own}]
        found += results.glob("*.json")
        return {path: Path(self.build_lib) / INSIDE / path.relative_to(results) for path in sorted(found)}


setup(cmdclass={"build_py": BuildWithRecords})
