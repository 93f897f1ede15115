"""The fixture `record`: a small complete run, reported into a folder of its own."""

import pytest
from report_rows import make_record


@pytest.fixture
def record(tmp_path):
    return make_record(tmp_path / "runs" / "demo")
