"""Look inside networks: whether sizes scale as their parameterization promises."""
