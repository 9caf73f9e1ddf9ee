"""Where the audit trail of one platform goes."""

from pydantic import Field, model_validator

from blocks.models import Frozen
from blocks.secret_ref import SecretRef


class S3Spec(Frozen):
    """A bucket that keeps a copy of the trail; let nobody delete there (object lock, a policy)."""

    bucket: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", description="its name")
    prefix: str = Field(
        default="audit",
        pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$",
        description="keys begin with it; one of its own for every machine that exports",
    )
    endpoint_url: str | None = Field(
        default=None, pattern=r"^https?://", description="of a server other than AWS"
    )
    region: str = Field(default="us-east-1", min_length=1, description="region of the bucket")
    access_key: SecretRef | None = Field(
        default=None,
        description="reference to the access key id; without one boto3 finds its own (role, "
        "profile, environment)",
    )
    secret_key: SecretRef | None = Field(
        default=None, description="reference to the secret access key"
    )
    timeout_s: int = Field(default=30, gt=0, le=600, description="of one request, seconds")

    @model_validator(mode="after")
    def _both(self) -> "S3Spec":
        if (self.access_key is None) != (self.secret_key is None):
            raise ValueError("access_key and secret_key go together: give both, or neither")
        return self


class AuditSpec(Frozen):
    """The copies of the audit trail; the trail itself is under `$RUNBOOKS_HOME/audit`."""

    s3: S3Spec | None = Field(default=None, description="a bucket that keeps a copy")
