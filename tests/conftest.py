"""Fixtures for all tests. What draws random numbers takes them from `seed`, to be run again."""

import os
import secrets

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "pvback",
    deadline=None,  # a busy machine is no failure; pytest-timeout ends what hangs
    print_blob=True,
    max_examples=int(os.environ.get("PVBACK_TEST_EXAMPLES", "50")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("pvback")


@pytest.fixture
def seed() -> int:
    """A new number each time, shown when the test fails; PVBACK_TEST_SEED sets it."""
    value = int(os.environ.get("PVBACK_TEST_SEED") or secrets.randbits(32))
    print(f"PVBACK_TEST_SEED={value}")
    return value
