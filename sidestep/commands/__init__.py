"""The table of commands. A new command is a row here, and the module that it names."""

from sidestep.commands.command import Command

# Under the headings of the help: a command's name, its module, and what it does in one line.
_ROWS = {
    "from songs to an adapter": [
        ("wizard", "sidestep.commands.wizard", "answer questions instead of typing flags"),
        ("run", "sidestep.commands.run", "do the spec's task (by default preprocess, estimate, train)"),
        ("preprocess", "sidestep.commands.run", "turn songs into tensors"),
        ("merge-index", "sidestep.commands.merge_index", "make one dataset of what shards have preprocessed"),
        ("estimate", "sidestep.commands.run", "rank modules by how strongly a dataset pulls on them"),
        ("train", "sidestep.commands.run", "train an adapter on tensors"),
        ("fixed", "sidestep.commands.run", "train in corrected mode (with --preprocess: make the tensors)"),
        ("vanilla", "sidestep.commands.run", "train in vanilla mode (with --preprocess: make the tensors)"),
        ("launch", "sidestep.commands.launch", "train by several processes, one for each GPU"),
        (
            "sample",
            "sidestep.commands.sample",
            "make sound with an adapter and without, to compare",
        ),
        (
            "calibrate",
            "sidestep.commands.calibrate",
            "find the strength with the lowest held-out loss",
        ),
        ("publish", "sidestep.commands.publish", "make a run's adapter from one of its checkpoints"),
        ("push", "sidestep.commands.push", "put an adapter and its card on the Hugging Face Hub"),
        ("export", "sidestep.commands.export", "write an adapter for the ACE-Step app, diffusers or ComfyUI"),
        ("resize", "sidestep.commands.resize", "make a LoRA of another rank from an adapter"),
        ("merge", "sidestep.commands.merge", "add adapters up, or merge them into a model's weights"),
    ],
    "before and during a run": [
        ("plan", "sidestep.commands.plan", "check a job and estimate its memory, time and cost"),
        ("lr-find", "sidestep.commands.lr_find", "find a learning rate that trains these songs"),
        ("render", "sidestep.commands.render", "write the file that runs a job on a platform"),
        ("status", "sidestep.commands.status", "show how a job is doing"),
        ("compare", "sidestep.commands.compare", "show runs beside each other, and which one is better"),
        ("verify-resume", "sidestep.commands.verify_resume", "check that resuming is exact on this machine"),
        ("presets", "sidestep.commands.presets", "list, show, save, delete, import or export named settings"),
    ],
    "the tool itself": [
        ("schema", "sidestep.commands.schema", "print the JSON schema of the job spec"),
        ("completion", "sidestep.commands.completion", "print the script for tab completion in bash or zsh"),
        (
            "tiny-checkpoint",
            "sidestep.commands.tiny_checkpoint",
            "write a tiny random checkpoint set, for trials and tests",
        ),
        ("demo", "sidestep.commands.demo", "run the whole pipeline on a tiny model, in minutes"),
    ],
}

COMMANDS = {
    name: Command(name, group, says, module) for group, rows in _ROWS.items() for name, module, says in rows
}
"""Every command by its name, in the order of the help."""

DEFAULT = "wizard"
"""What `sidestep` alone is, where somebody can answer."""
