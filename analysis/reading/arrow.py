"""All rows of a table as Arrow has them: for columns that hold lists, which DuckDB hands over slowly."""

from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds

from analysis.reading.damage import counted, sound
from analysis.reading.database import ATTEMPTS
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.tables import SCHEMAS


def rows_of(run: Path, table: str) -> pa.Table:
    """The rows of a table of a run; parts that are missing or torn are left out.

    Raises:
        OrthoLoraError: a part cannot be read though it looks whole.
    """
    error: Exception | None = None
    for _ in range(ATTEMPTS):
        whole = sound(run, counted(run), [table], deep=True)
        files = [str(run / table / part.name) for part in whole.of(table)]
        try:
            return ds.dataset(files, schema=SCHEMAS[table]).to_table() if files else SCHEMAS[table].empty_table()
        except (OSError, pa.ArrowException) as found:  # parts were put together meanwhile
            error = found
    raise OrthoLoraError(f"{run}: a part of its record cannot be read ({error}).") from error
