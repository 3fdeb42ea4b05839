"""A policy in a process of its own, reached through shared memory.

* :class:`PolicyProcess` is one child and its client.
* :class:`SupervisedPolicy` restarts it when it dies, hangs, is late or babbles, while the arm holds.
"""

from vla.process.client import PolicyProcess, ProcessMode
from vla.process.errors import (
    PolicyDiedError,
    PolicyInferenceError,
    PolicyProcessError,
    PolicySilentError,
    PolicyStartError,
    PolicyTimeoutError,
)
from vla.process.factory import PolicyFactory
from vla.process.supervised import FaultKind, PolicyFault, RestartOptions, SupervisedPolicy

__all__ = [
    "FaultKind",
    "PolicyDiedError",
    "PolicyFactory",
    "PolicyFault",
    "PolicyInferenceError",
    "PolicyProcess",
    "PolicyProcessError",
    "PolicySilentError",
    "PolicyStartError",
    "PolicyTimeoutError",
    "ProcessMode",
    "RestartOptions",
    "SupervisedPolicy",
]
