import pytest
from recording import begun


@pytest.fixture
def recorder(tmp_path):
    return begun(tmp_path)
