"""What the kernel that runs the tests can do."""

import os

import pytest

RELEASE = tuple(int(number) for number in os.uname().release.split("-")[0].split(".")[:2])
needs_tcx = pytest.mark.skipif(RELEASE < (6, 6), reason="Linux has tcx links from 6.6 on")
