"""What can be wrong with a policy process, as types."""

from __future__ import annotations


class PolicyProcessError(RuntimeError):
    """The policy process cannot answer."""


class PolicyStartError(PolicyProcessError):
    """The child could not build its policy."""


class PolicyDiedError(PolicyProcessError):
    """The child is gone; every later call says so too."""


class PolicyTimeoutError(PolicyProcessError):
    """The child did not answer in time and was ended."""


class PolicySilentError(PolicyTimeoutError):
    """The child gave no sign of life for too long and was ended: it hangs, or it was stopped."""


class PolicyInferenceError(PolicyProcessError):
    """The policy refused or failed on one observation; the child lives on."""


class MalformedMessageError(ValueError):
    """Bytes that are no message of the channel."""
