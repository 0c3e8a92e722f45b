import pytest

RENDERED = ("commands", "pictures", "research", "sequences", "target_propagation", "visualize")
"""The tests that look at pictures; those of the gallery do too."""


@pytest.fixture(autouse=True, scope="module")
def unrendered(request):
    """Elsewhere pictures are composed and written without being rendered, a third of a run."""
    with pytest.MonkeyPatch.context() as patch:
        path = request.path
        if path.stem.removeprefix("test_") not in RENDERED and path.parent.name != "gallery":
            patch.setattr(
                "matplotlib.figure.Figure.savefig", lambda _, path: path.write_bytes(b"\x89PNG")
            )
        yield


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """Every test has a working folder, and no part in the user's caches and data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JAXNN_DATA", raising=False)
