"""`sidestep merge-index`: one dataset of the tensors that shards have made."""

from sidestep.commands.command import Call
from sidestep.commands.job import add_job_flags, read_job
from sidestep.commands.parser import Parser
from sidestep.config.fields import FieldPath
from sidestep.runtime.console import write_json
from sidestep.runtime.errors import BadSpecError
from sidestep.runtime.folders import provide_folders

SAYS: dict[FieldPath, str | None] = {("task",): "preprocess", ("preprocess", "shard"): None}
"""It merges all of them, whichever one a spec that is shared with them, or a platform, says that this is."""


def add_arguments(parser: Parser) -> None:
    add_job_flags(parser, "[JOB.YAML] [flags]", SAYS, about=["preprocess"])
    parser.add_argument("--json", action="store_true", help="print JSON for scripts: what was merged")


def run(call: Call) -> None:
    """Merge the shards of a spec. Its songs are listed where it names them, so that shards of an older list
    are told apart. Raises as `data.unmerged.merge_shards`."""
    options, spec, _ = read_job(call, SAYS, needs_places=False)
    if not (spec.dataset_dir or spec.output_dir):
        raise BadSpecError(
            "merge-index needs the tensors' place: --tensor-output, or --output-dir of the job"
        )

    from sidestep.data.dealing import list_digest
    from sidestep.data.unmerged import merge_shards
    from sidestep.lifecycle.job import Job
    from sidestep.preflight.checks import raise_problems, run_checks
    from sidestep.preflight.places import output_checks

    provide_folders(spec.runtime.workspace)
    job, shards = Job(spec), spec.preprocess.shards
    raise_problems(run_checks(output_checks(job)))
    listed = list_digest(job.read_songs()) if spec.audio_dir or spec.dataset_json else None
    merged = merge_shards(job.tensors, shards if shards > 1 else None, listed)
    if options.json:
        write_json(
            {
                "tensors": job.tensors.place,
                "shards": merged.of,
                "songs": len(merged.index.samples),
                "foreign": merged.foreign,
            }
        )
