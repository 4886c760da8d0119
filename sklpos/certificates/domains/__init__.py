"""Sets of inputs."""
