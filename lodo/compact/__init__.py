"""LODO in fewer bytes: θ and the meta-optimizer's moments kept rounded, computed in full.

``lodo.lodo(storage="compact")`` is the form to start from, with ``BlockPermutation(permutations="rolled")`` for no
stored permutations.
:class:`Storage` describes any other, and :func:`scale_by_compact_adam` is the meta-optimizer by itself. What a form
costs and loses, where it was measured, is on the page "What a step costs" of the book.
"""

from lodo.compact.moments import CompactAdamState, RowsAndColumns, scale_by_compact_adam
from lodo.compact.rounding import BlockFloat, from_block_float, to_bfloat16, to_block_float
from lodo.compact.storage import STORAGES, Storage, key_at, key_of, read, storage_named, write

__all__ = [
    "STORAGES",
    "BlockFloat",
    "CompactAdamState",
    "RowsAndColumns",
    "Storage",
    "from_block_float",
    "key_at",
    "key_of",
    "read",
    "scale_by_compact_adam",
    "storage_named",
    "to_bfloat16",
    "to_block_float",
    "write",
]
