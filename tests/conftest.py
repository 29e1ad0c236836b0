import sys
from pathlib import Path

from hypothesis import settings

# Test modules share samplers and oracles; nothing of them is installed.
sys.path.insert(0, str(Path(__file__).parent))

# Time is measured in benchmarks/, and a failure must be one that comes again.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")
