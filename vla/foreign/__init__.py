"""Other people's policies: what their entries mean, and how their actions cross the boundary to tokens."""
