"""Tables of a record, asked through DuckDB: from roll-ups where these answer, around damage, and remembered.

Of this project it imports `ortho_lora`'s record alone. Start at `database.ask`.
"""

from ortho_lora.errors import require

require("analysis", "duckdb", "plotly", "jinja2")
