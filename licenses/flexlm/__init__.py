"""Import FlexNet (FlexLM) license and options files."""
