"""``--mask FOLDER``: a mask for each picture."""
import os
import pathlib

from indigo_jax.cli import files
from indigo_jax.cli.messages import UsageError, one_line, show


class Masks:
    """A folder of masks: that of a picture has its name, below the folder as it is below INPUT."""

    def __init__(self, folder):
        from indigo_jax import images
        self.folder = folder
        try:
            found = images.list_pictures(folder)
            self.files = images.by_stem([file.relative_to(folder).as_posix() for file in found], folder)
        except ValueError as error:
            raise UsageError(f"--mask {one_line(error)}") from error
        if not found:
            raise UsageError(f"--mask {show(folder)}: no pictures in this folder")

    def of(self, job) -> pathlib.Path | None:
        """The mask of a picture, or None."""
        name = self.files.get(pathlib.PurePath(os.path.splitext(job.relative)[0]).as_posix())
        return None if name is None else pathlib.Path(self.folder, name)

    def read(self, job):
        """The same as an array; ValueError for one that makes no sense."""
        try:
            return files.read_mask(self.of(job))
        except UsageError as error:
            raise ValueError(str(error)) from error
