"""Values of the formats in api/openapi.yaml that JSON Schema does not define."""

import schemathesis
from hypothesis import strategies as st

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c"

schemathesis.openapi.format("ssh-public-key", st.sampled_from([KEY, KEY + " alice@laptop"]))
schemathesis.openapi.format("ip-address-or-prefix", st.sampled_from(["127.0.0.1", "127.0.0.2/32", "203.0.113.7", "198.51.100.0/28"]))
schemathesis.openapi.format(
    "printable-line", st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=200)
)
