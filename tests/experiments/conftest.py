import pytest


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """Every test has a working folder, and no part in the user's caches and data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JAXNN_DATA", raising=False)
