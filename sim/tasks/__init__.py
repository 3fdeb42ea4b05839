"""Language-conditioned tabletop tasks: scenes, instructions and physical success predicates."""
