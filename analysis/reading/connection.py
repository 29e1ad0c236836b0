"""Connections to the one DuckDB of a process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count

import duckdb


@cache
def _database(process: int) -> duckdb.DuckDBPyConnection:
    """One for each process, whose threads no fork inherits: to start another takes longer than most questions."""
    return duckdb.connect(config={"autoinstall_known_extensions": False})


_names = map("question{}".format, count())


@contextmanager
def asking() -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with a catalogue of its own, whatever other threads ask."""
    name = next(_names)
    with _database(os.getpid()).cursor() as connection:
        connection.execute(f"ATTACH ':memory:' AS {name}")
        try:
            connection.execute(f"USE {name}")
            yield connection
        finally:
            connection.execute("USE memory")
            connection.execute(f"DETACH {name}")
