"""ROS 2 nodes and message conversion; the only room that may import rclpy. No node is built yet."""
