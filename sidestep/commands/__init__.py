"""The table of commands. A new command is a row here, and the module that it names."""

from sidestep.commands.command import Command

# Under the headings of the help: a command's name, its module, and what it does in one line.
_ROWS = {
    "from songs to an adapter": [
        ("wizard", "sidestep.commands.wizard", "questions in place of flags (so does `sidestep` alone)"),
        ("run", "sidestep.commands.run", "the task of the spec; by default preprocess, estimate, train"),
        ("preprocess", "sidestep.commands.run", "songs to tensors"),
        ("estimate", "sidestep.commands.run", "rank modules by how much a dataset moves them"),
        ("train", "sidestep.commands.run", "tensors to an adapter"),
        ("fixed", "sidestep.commands.run", "train in corrected mode (--preprocess: make the tensors)"),
        ("vanilla", "sidestep.commands.run", "train in vanilla mode (--preprocess: make the tensors)"),
        ("export", "sidestep.commands.export", "write an adapter for the ACE-Step app, diffusers or ComfyUI"),
    ],
    "before and while it runs": [
        ("plan", "sidestep.commands.plan", "check a job; its memory, time and cost before a GPU is rented"),
        ("render", "sidestep.commands.render", "write the file that runs a job at a place"),
        ("status", "sidestep.commands.status", "what a job is doing, read from its output"),
        (
            "verify-resume",
            "sidestep.commands.verify_resume",
            "prove on this machine that an interrupted run is no other",
        ),
        ("presets", "sidestep.commands.presets", "named settings: list, show, save, delete, import, export"),
    ],
    "the tool itself": [
        ("schema", "sidestep.commands.schema", "print the JSON schema of the job spec"),
        (
            "completion",
            "sidestep.commands.completion",
            "print the script that completes commands in bash or zsh",
        ),
        (
            "tiny-checkpoint",
            "sidestep.commands.tiny_checkpoint",
            "write a random checkpoint set, for trials and tests",
        ),
        ("demo", "sidestep.commands.demo", "the whole pipeline on a tiny model, in minutes"),
    ],
}

COMMANDS = {
    name: Command(name, group, says, module) for group, rows in _ROWS.items() for name, module, says in rows
}
"""Every command by its name, in the order of the help."""

DEFAULT = "wizard"
"""What `sidestep` alone is, where somebody can answer."""
