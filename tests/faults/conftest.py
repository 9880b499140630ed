"""Every test here needs Ray."""

import pytest


@pytest.fixture(autouse=True)
def _ray(cluster: str) -> None:
    pass
