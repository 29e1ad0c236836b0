import pytest


@pytest.fixture(autouse=True)
def own_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers 4 leaves a trainer's precision in the environment, where the next trainer finds it."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
