"""What pytest was told on its command line. The plugin is loaded with every pytest, so this imports next to nothing."""

from collections.abc import Callable

replay = ""
"""The token of `--sim-replay`: every strategy of worlds then draws that world alone."""
begins: Callable[[], object] = bool
"""Called when a run begins in a world: the plugin forgets what the worlds before it logged. By default nothing."""
sections = False
"""Whether the plugin shows the page of a failure; else the failure has it as a note."""
