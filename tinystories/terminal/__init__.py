"""Writing stories without a prompt on the command line: a session in a terminal, or prompts from stdin."""
