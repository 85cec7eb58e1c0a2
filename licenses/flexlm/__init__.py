"""What FlexNet (FlexLM) licence and options files say, brought into our own tables."""
