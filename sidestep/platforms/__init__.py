"""The platforms that a job runs on, one file each, and what becomes of a machine that was rented for it.

`sidestep render` writes the file that runs a spec there, and says the command that submits it.
"""
