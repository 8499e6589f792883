"""The rows that are kept in a table that strangers can fill.

Names that were never proven get a fifth of the rows and of the bytes, so that made-up names never remove the rows of real peers.
Within both kinds, registered domains take turns: first the newest row of every domain is kept, then the second newest of every
domain, and so on.

Anyone may claim the name of a real peer. So the rows of one name take turns by the kind of event: many events of one kind remove
no rows of another kind.
"""

from __future__ import annotations

from s2sgw.peerdb.database import Statement

#: The part of the rows and of the bytes for names that were never proven.
STRANGERS = 0.2


def trim(
    table: str, rows: int, size: int, sizes: str = "size", source: str = "", order: str = "last DESC",
) -> Statement:
    """Return the statement that deletes rows of `table` beyond `rows` rows and `size` bytes.

    The table has the columns `id`, `known` (0 or 1), `site` and `last`. `sizes` is the SQL for the bytes of a row, from the table
    and the join `source`; `order` the order of the rows of one domain.
    """
    return (
        f"""
        WITH turns AS (
            SELECT {table}.id, known, last, {sizes} AS bytes,
                row_number() OVER (PARTITION BY known, site ORDER BY {order}) AS turn
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


def trim_name(table: str, column: str, name: str, rows: int, kinds: str, order: str) -> Statement:
    """Return the statement that deletes rows beyond `rows` of one `name`, which is in `column`.

    The newest row of each of the `kinds` is kept first, then the second newest of each, and so on. Within a turn, `order`
    decides.
    """
    return (
        f"""
        DELETE FROM {table} WHERE id IN (
            SELECT id FROM {table} WHERE {column} = ?
            ORDER BY row_number() OVER (PARTITION BY {kinds} ORDER BY last DESC), {order} LIMIT -1 OFFSET ?
        )
        """,
        (name, rows),
    )
