"""The interactive front: questions whose answers become a command, which is then run as if it were typed."""
