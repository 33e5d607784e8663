"""A prepared data set as a source: prepared again at another resolution, merged, filtered or stored
otherwise.
"""

import numpy as np

from gansmith.data.shards import open_prepared
from gansmith.data.sources.base import Source


class PreparedSource(Source):
    """The images of a prepared data set, with its classes and their ids."""

    kind = "prepared data set"

    def __init__(self, path: str) -> None:
        dataset = open_prepared(path, in_memory=False)
        super().__init__(
            path,
            [c.name for c in dataset.classes],
            dataset.labels,
            numbered=True,
            native=(*dataset.resolution, dataset.channels),
        )
        self.content_hash = dataset.content_hash
        self._open = dataset

    def key(self, index: int) -> str:
        return self._dataset().key(index)

    def read(self, index: int) -> np.ndarray:
        return self._dataset().read(np.array([index]))[0]

    def fingerprint(self) -> str:
        return self.content_hash[:32]

    def _dataset(self):
        if self._open is None:
            self._open = open_prepared(self.path, in_memory=False)
        return self._open
