"""The pages, one question a file; each is a function that reads top-down and stops after an empty state.

Imports `shared`, `launching` and `playground`. Start at `start`.
"""

from ortho_lora.errors import require

require("app", "streamlit")
