"""What pytest was told on its command line. The plugin is loaded with every pytest, so this imports nothing."""

replay = ""
"""The token of `--sim-replay`: every strategy of worlds then draws that world alone."""
sections = False
"""Whether the plugin shows the page of a failure; else the failure has it as a note."""
