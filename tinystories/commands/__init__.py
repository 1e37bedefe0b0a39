"""The commands of users: one module each, with its parser and its main()."""
