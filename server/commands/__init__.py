"""The sub-commands of ``darkroom``, one a file, and the modules that they share.

The file of a command has ``add_parser(commands)``, which adds its flags, and ``run(arguments)``, which does its work
and returns the exit code. The command line knows every flag before it knows which command runs. So these files import
what is slow to import (the settings, the HTTP client, pictures, progress bars) inside the functions that need it.
"""
