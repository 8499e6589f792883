"""Rows of a table that strangers can fill: which of them are kept.

Names that were never proven have a fifth of the rows and of the bytes, so that however many are made up, what is known of real
peers stays. Within both kinds, each registered domain has its turn: first the newest row of every domain is kept, then the second
newest of every domain, and so on.
"""

from __future__ import annotations

from s2sgw.peerdb.database import Statement

#: The part of the rows and of the bytes that names have which were never proven.
STRANGERS = 0.2


def trim(table: str, rows: int, size: int, sizes: str = "size", source: str = "") -> Statement:
    """Return the statement that deletes what is beyond `rows` rows and `size` bytes of `table`.

    The table has the columns `id`, `known` (0 or 1), `site` and `last`. `sizes` gives the bytes of a row, from the table and the
    join `source`.
    """
    return (
        f"""
        WITH turns AS (
            SELECT {table}.id, known, last, {sizes} AS bytes,
                row_number() OVER (PARTITION BY known, site ORDER BY last DESC) AS turn
            FROM {table} {source}
        ), ranked AS (
            SELECT id, known, row_number() OVER by_turn AS number, sum(bytes) OVER by_turn AS total FROM turns
            WINDOW by_turn AS (PARTITION BY known ORDER BY turn, last DESC ROWS UNBOUNDED PRECEDING)
        )
        DELETE FROM {table} WHERE id IN (
            SELECT id FROM ranked WHERE number > iif(known, ?, ?) OR total > iif(known, ?, ?)
        )
        """,
        (rows - int(rows * STRANGERS), int(rows * STRANGERS), size - int(size * STRANGERS), int(size * STRANGERS)),
    )
