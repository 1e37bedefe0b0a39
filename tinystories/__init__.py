"""The library under the commands, which only read arguments, call it and print."""
