"""A web page on which an episode can be scrubbed and played: the scene, cameras, tokens, targets, forces, margins."""
