"""The one door: the command `mtcae`.

A module here holds the options of a command and hands them to the room that does the work, which it imports when it is
run. Installed, this folder is also the package `mtcae_commands`, from which the command starts: importing `mtcae_dfer`
registers the models with transformers and takes seconds, which `mtcae --help` and a wrong option need not wait for. So
the modules import each other relatively.
"""
