"""The safety filter's mathematics, compiled: kinematics, dynamics and distances, without MuJoCo at run time."""
