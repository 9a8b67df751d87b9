import pytest

pytest.register_assert_rewrite("tests.support.answers", "tests.support.consistency")
