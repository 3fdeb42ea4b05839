"""The command line: the composition root, one thin file for each ``vla`` subcommand."""
