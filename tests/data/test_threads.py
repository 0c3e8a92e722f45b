from threading import Event

import pytest

from jaxnn.data import threads


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_where_one_fails_the_others_are_told(error, monkeypatch):
    monkeypatch.setattr(threads, "processors", lambda: 2)
    stop, told = Event(), []

    def work(item):
        if item:
            raise error
        told.append(stop.wait(20))

    with pytest.raises(error):
        threads.in_threads(work, range(2), stop)
    assert told == [True]
