"""Publish an instruction once somebody listens, as `ros2 topic pub --once` does: python -m ros_nodes.say WORDS."""

from __future__ import annotations

import argparse
import sys
import time

from ros_nodes.errors import MissingRosError, require_rclpy

_LINGER_S = 0.3


def main() -> int:
    """Say it; 1 if nobody listened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words")
    parser.add_argument("--namespace", default="")
    parser.add_argument("--wait-s", type=float, default=30.0)
    options = parser.parse_args()
    try:
        require_rclpy()
    except MissingRosError as error:
        print(error, file=sys.stderr)
        return 2
    import rclpy
    from std_msgs.msg import String

    from ros_nodes import topics
    from ros_nodes.qos import profile

    rclpy.init()
    node = rclpy.create_node("say", namespace=options.namespace)
    publisher = node.create_publisher(String, topics.INSTRUCTION.name, profile(topics.INSTRUCTION.offered))
    deadline = time.monotonic() + options.wait_s
    while publisher.get_subscription_count() == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    heard = publisher.get_subscription_count() > 0
    publisher.publish(String(data=options.words))
    time.sleep(_LINGER_S)
    node.destroy_node()
    rclpy.shutdown()
    print("said" if heard else "nobody listened", file=sys.stderr)
    return 0 if heard else 1


if __name__ == "__main__":
    sys.exit(main())
