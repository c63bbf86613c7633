"""What a person does about each error of the API's catalogue. docs/reference/errors.md is made of it."""

from __future__ import annotations

from kci.contract import errors

REMEDIES = {
    errors.MALFORMED_REQUEST: "Send JSON, or a form as Kingsoft Cloud's SDKs do.",
    errors.REQUEST_TOO_LARGE: "Send less in one request.",
    errors.MISSING_PARAMETER: "Give the parameter that the message names.",
    errors.INVALID_PARAMETER_VALUE: "Correct the parameter that the message names; it says what is allowed.",
    errors.INVALID_ACTION: "See [the operations](operations.md), and the Version of the request.",
    errors.UNSUPPORTED_OPERATION: "Ask DescribeCapabilities; what this service cannot do, the message names.",
    errors.METHOD_NOT_ALLOWED: "Use GET or POST.",
    errors.MISSING_AUTHENTICATION: "Sign it with an access key, as `kci` does with KCI_ACCESS_KEY.",
    errors.INCOMPLETE_SIGNATURE: "Look at the Authorization header: Credential, SignedHeaders and Signature.",
    errors.REQUEST_EXPIRED: "Set the clock of the machine that signs, or of the service.",
    errors.SIGNATURE_MISMATCH: "Look at access key, secret key, region and service name of the signature.",
    errors.SECURITY_TOKEN_INVALID: "Send the token that came with these keys.",
    errors.SECURITY_TOKEN_EXPIRED: "Take newer keys ([how](../how-to/use-temporary-keys.md)).",
    errors.ACCESS_DENIED: "Use keys that may do this.",
    errors.REPLAYED_REQUEST: (
        "Sign each request anew; equal ones of one second need a signed header that differs (`x-amz-nonce`)."
    ),
    errors.NOT_FOUND: "Look at the endpoint's path.",
    errors.CONTAINER_GROUP_NOT_FOUND: "Nothing, if it was deleted; `kci groups` lists those that there are.",
    errors.CONTAINER_NOT_FOUND: "Look at its name with `kci group ID`; `--previous` needs an earlier run.",
    errors.VPC_NOT_FOUND: "`kci vpcs` lists those that there are.",
    errors.SUBNET_NOT_FOUND: "`kci subnets` lists what there is; correct the annotation or KCI_SUBNET_ID.",
    errors.SECURITY_GROUP_NOT_FOUND: (
        "`kci security-groups` lists those that there are; correct the annotation or KCI_SECURITY_GROUP_IDS."
    ),
    errors.SECURITY_GROUP_ENTRY_NOT_FOUND: "`kci security-group show ID` lists its rules.",
    errors.IDEMPOTENT_PARAMETER_MISMATCH: "Use another token, or the parameters of the first time.",
    errors.STALE_EPOCH: "Nothing: another copy of the node acts.",
    errors.INSUFFICIENT_ADDRESSES: "Delete pods, or use a larger subnet ([how](../how-to/make-a-subnet.md)).",
    errors.CIDR_CONFLICT: "Choose another range; `kci subnets` lists those in use.",
    errors.VPC_IN_USE: "Delete its subnets and security groups first.",
    errors.SUBNET_IN_USE: "Delete the container groups in it first; `kci groups` lists them.",
    errors.SECURITY_GROUP_IN_USE: "Take it off the groups and rules that name it first.",
    errors.SECURITY_GROUP_ENTRY_EXISTS: "Nothing: the rule is there.",
    errors.LIMIT_EXCEEDED: "Delete one first.",
    errors.TOO_MANY_REQUESTS: "Send it again after the time in Retry-After.",
    errors.SERVICE_UNAVAILABLE: "Send it again later; the service's log says what it waits for.",
    errors.INTERNAL_ERROR: "Look for the request's id in the service's log.",
}


def of(entry: errors.Entry) -> str:
    """A sentence or two; KeyError if somebody forgot one."""
    return REMEDIES[entry]
