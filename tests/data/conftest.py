import pytest


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """No test reads or fills the user's cache, or finds the user's data."""
    monkeypatch.setenv("JAXNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JAXNN_DATA", raising=False)
