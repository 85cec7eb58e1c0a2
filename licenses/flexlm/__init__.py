"""What FlexNet (FlexLM) license and options files say, brought into our own tables."""
