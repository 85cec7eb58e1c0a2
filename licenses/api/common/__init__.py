"""The shared parts of the API's resources."""
