"""Core types, protocols, kinematics, controllers, the chunk executor and the control tick."""
