"""Where the audit trail of one platform goes."""

from blocks.models import Frozen


class AuditSpec(Frozen):
    """The S3 copy of the audit trail."""
