"""Parameters of nodes as typed dataclasses: declared with description, range, and whether they may change later."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, cast

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterValueException, ParameterException
from rclpy.node import Node

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OptionDoc:
    """What a parameter is.

    Attributes:
        text: Description.
        low: Smallest value of a number.
        high: Largest value.
        live: May change while the node runs; everything else is read-only from the start.
    """

    text: str
    low: float | None = None
    high: float | None = None
    live: bool = False


def option(default: Any, text: str, *, low: float | None = None, high: float | None = None, live: bool = False) -> Any:
    """A dataclass field that is a ROS parameter; the type of ``default`` is the parameter's."""
    doc = OptionDoc(text, low, high, live)
    if isinstance(default, tuple):
        return field(default=default, metadata={"option": doc})
    return field(default=default, metadata={"option": doc})


def declare(node: Node, kind: type[T]) -> T:
    """Declare every field of ``kind`` as a parameter of ``node``, and read what was given.

    Raises:
        ValueError: A value of another type or outside its range; names the parameter.
    """
    for item in fields(cast(Any, kind)):
        doc: OptionDoc = item.metadata["option"]
        descriptor = ParameterDescriptor(description=doc.text, read_only=not doc.live)
        default: Any = list(item.default) if isinstance(item.default, tuple) else item.default
        if doc.low is not None and doc.high is not None:
            if isinstance(default, float):
                descriptor.floating_point_range = [FloatingPointRange(from_value=doc.low, to_value=doc.high, step=0.0)]
            else:
                bounds = IntegerRange(from_value=int(doc.low), to_value=int(doc.high), step=1)
                descriptor.integer_range = [bounds]
        try:
            node.declare_parameter(item.name, default, descriptor)
        except (InvalidParameterValueException, ParameterException) as error:
            expected = type(default).__name__ + ("" if doc.low is None else f" from {doc.low:g} to {doc.high:g}")
            raise ValueError(f"parameter {item.name}: expected {expected} ({doc.text}); {error}") from error
    return current(node, kind)


def current(node: Node, kind: type[T]) -> T:
    """The parameters as they are now."""
    values: dict[str, Any] = {}
    for item in fields(cast(Any, kind)):
        value = node.get_parameter(item.name).value
        values[item.name] = tuple(value) if isinstance(item.default, tuple) else value
    return kind(**values)


def parameter_docs(kind: type[Any]) -> dict[str, OptionDoc]:
    """Descriptions by name, for the documentation and its test."""
    return {item.name: item.metadata["option"] for item in fields(kind)}
