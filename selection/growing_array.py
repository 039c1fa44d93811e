"""An array that grows at its end, for what is aligned by row."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)


class GrowingArray(Generic[Scalar]):
    """A one-dimensional array with room to spare: appending a little, often, copies each element a few times in all."""

    def __init__(self, dtype: type[Scalar], *, default: Any) -> None:
        """Makes an empty array; `default` fills places that were made but not written."""
        self._data: NDArray[Scalar] = np.full(1024, default, dtype=dtype)
        self._default = default
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def all(self) -> NDArray[Scalar]:
        """The elements. A view: what is written shows in it, until the array grows."""
        return self._data[: self._size]

    def pad(self, size: int) -> None:
        """Grows to at least `size` elements."""
        if size > len(self._data):
            larger: NDArray[Scalar] = np.full(max(size, 2 * len(self._data)), self._default, dtype=self._data.dtype)
            larger[: self._size] = self.all
            self._data = larger
        self._size = max(self._size, size)

    def detach(self) -> None:
        """Moves the elements to a place of their own: views that were given out no longer show what is written from now on."""
        self._data = self._data.copy()

    def extend(self, values: Any) -> None:
        """Appends."""
        start = self._size
        self.pad(start + len(values))
        self._data[start : self._size] = values
