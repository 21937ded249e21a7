"""A bucket of S3's kind, over botocore (extra `s3`): whoever imports this needs it."""

from typing import Any

from botocore.config import Config
from botocore.session import get_session

TOGETHER = 1_000
"""How many files S3 lists or deletes at a time."""


class Bucket:
    """A bucket, with the credentials and the region that botocore finds (AWS_ACCESS_KEY_ID and so on)."""

    def __init__(self, name: str, endpoint: str = "") -> None:
        self.name = name
        # Two tries within seconds: a player asks again by itself.
        config = Config(signature_version="s3v4", connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 2})
        self.client: Any = get_session().create_client("s3", endpoint_url=endpoint or None, config=config)

    def upload_link(self, key: str, content_type: str, size: int, seconds: int) -> str:
        """Return an address that takes one file by PUT, of exactly this type and size: both are signed. Asks nobody."""
        where = {"Bucket": self.name, "Key": key, "ContentType": content_type, "ContentLength": size}
        return str(self.client.generate_presigned_url("put_object", Params=where, ExpiresIn=seconds))

    def delete_under(self, prefix: str) -> int:
        """Delete every file whose key begins so, and return how many there were; takes as long as the bucket does."""
        gone = 0
        while True:
            found = self.client.list_objects_v2(Bucket=self.name, Prefix=prefix, MaxKeys=TOGETHER).get("Contents", [])
            if not found:
                return gone
            keys = [{"Key": one["Key"]} for one in found]
            refused = self.client.delete_objects(Bucket=self.name, Delete={"Objects": keys, "Quiet": True}).get("Errors", [])
            if refused:
                raise OSError(f"the bucket keeps {len(refused)} files: {refused[0].get('Code', '')}")
            gone += len(keys)
