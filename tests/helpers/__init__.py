"""What test files of several folders share."""
