"""What every test of the data shares."""

from contextlib import contextmanager

import pytest

from latentia.errors import DataError


@pytest.fixture
def refused():
    """A context that must end in a `DataError` whose message holds every one of the given parts."""

    @contextmanager
    def context(*parts, error=DataError):
        with pytest.raises(error) as caught:
            yield
        for part in parts:
            assert part in str(caught.value), f"{part!r} is missing in: {caught.value}"

    return context


@pytest.fixture
def write(tmp_path):
    """A function that writes text or bytes to a file of this test and returns its path."""

    def function(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return function
