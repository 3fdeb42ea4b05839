"""Our declared quality of service as rclpy's, and its overriding through parameters."""

from __future__ import annotations

from rclpy.duration import Duration
from rclpy.qos import (
    QoSDurabilityPolicy,
    QoSHistoryPolicy,
    QoSLivelinessPolicy,
    QoSPolicyKind,
    QoSProfile,
    QoSReliabilityPolicy,
)
from rclpy.qos_overriding_options import QoSOverridingOptions

from ros_nodes.topics import Durability, Qos, Reliability

_MILLISECOND_NS = 1_000_000


def profile(qos: Qos) -> QoSProfile:
    """The declared profile for rclpy."""
    found = QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST,
        depth=qos.depth,
        reliability=QoSReliabilityPolicy.RELIABLE
        if qos.reliability is Reliability.RELIABLE
        else QoSReliabilityPolicy.BEST_EFFORT,
        durability=QoSDurabilityPolicy.TRANSIENT_LOCAL
        if qos.durability is Durability.TRANSIENT_LOCAL
        else QoSDurabilityPolicy.VOLATILE,
    )
    if qos.deadline_ms is not None:
        found.deadline = Duration(nanoseconds=qos.deadline_ms * _MILLISECOND_NS)
    if qos.lease_ms is not None:
        found.liveliness = QoSLivelinessPolicy.AUTOMATIC
        found.liveliness_lease_duration = Duration(nanoseconds=qos.lease_ms * _MILLISECOND_NS)
    return found


def overridable() -> QoSOverridingOptions:
    """Let the parameters ``qos_overrides.TOPIC.publisher.reliability`` and ``.durability`` change it."""
    return QoSOverridingOptions([QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY])
