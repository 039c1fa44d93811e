"""The table of a vector shard: columns `row` (int64) and `vector` (float16 of unit length), null where a frame has none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa


def vector_table(vectors_ND: NDArray[np.float16], *, valid_N: NDArray[np.bool_], start: int) -> pa.Table:
    """The columns of a vector shard.

    Args:
        vectors_ND: Shape (N, D), unit length.
        valid_N: Shape (N,); where False, the vector is null.
        start: Row of the first line.
    """
    import pyarrow as pa

    mask = pa.array(~valid_N) if not valid_N.all() else None
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(vectors_ND.reshape(-1)), vectors_ND.shape[1], mask=mask)
    rows = pa.array(np.arange(start, start + len(vectors_ND), dtype=np.int64))
    return pa.table({"row": rows, "vector": vectors})


def vectors_in(table: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
    """Rows that have a vector, and the vectors, without a copy where all have one."""
    column = table.column("vector").combine_chunks()
    rows: NDArray[np.int64] = table.column("row").to_numpy()
    if column.null_count:
        rows = rows[np.asarray(column.is_valid())]
        column = column.drop_null()
    dense: NDArray[np.float16] = column.flatten().to_numpy(zero_copy_only=False)
    return rows, dense.reshape(len(rows), column.type.list_size)


def filled(table: pa.Table, rows_M: NDArray[np.int64], vectors_MD: NDArray[np.float16]) -> tuple[pa.Table, int]:
    """The table with vectors where it has none, and how many it got; those that it has stay."""
    kept_N, kept_ND = vectors_in(table)
    start = int(table.column("row")[0].as_py())
    all_ND = np.zeros((table.num_rows, vectors_MD.shape[1]), dtype=np.float16)
    valid_N = np.zeros(table.num_rows, dtype=np.bool_)
    all_ND[rows_M - start], valid_N[rows_M - start] = vectors_MD, True
    all_ND[kept_N - start], valid_N[kept_N - start] = kept_ND, True
    return vector_table(all_ND, valid_N=valid_N, start=start), int(valid_N.sum()) - len(kept_N)
