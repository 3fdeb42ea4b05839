"""The stack as ROS 2 nodes, and message conversion; the only room that may import rclpy.

Modules that a process without ROS may read, such as :mod:`ros_nodes.topics`, :mod:`ros_nodes.records` and
:mod:`ros_nodes.graph`, do not import it.
"""
