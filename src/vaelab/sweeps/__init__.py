"""Many runs from one command: each a process and a run directory of its own. Imports no torch."""
