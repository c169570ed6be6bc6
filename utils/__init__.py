"""The ground: errors, files, command line, device, processes, signals, random seeds. It imports no other room."""
