"""Imported once by the process that the runs which die are forked from."""

import flows.apply_serving
import flows.remediate_oom
import flows.restore_context  # noqa: F401
from tests.quick import read_one_authority

read_one_authority()
