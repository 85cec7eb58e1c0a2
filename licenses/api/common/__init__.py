"""What the resources of the API share."""
