"""The places a job runs at, one file each, and what becomes of a machine that was rented for it.

`sidestep render PLACE` writes the file that runs a spec there, and says the command that submits it.
"""
