"""What each command of the command line does, one file a command; their options are declared in `pellucid.cli`."""
