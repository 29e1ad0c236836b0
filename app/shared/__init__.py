"""What pages share: the address that keeps what is chosen, the runs, figures, links, verdicts and explanations.

Imports `analysis` alone. Start at `state`.
"""

from ortho_lora.errors import require

require("app", "streamlit")
