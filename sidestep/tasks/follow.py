"""What a rank other than 0 does in a training of several processes: the same steps, and nothing that stays.

It writes nothing to the output, decides nothing, and ends with rank 0. Everything that lasts is rank 0's, in
`tasks.train`.
"""

import logging
from pathlib import Path

from sidestep.data.preprocessed import Preprocessed
from sidestep.lifecycle.identity import settings_of
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.resume import ResumePoint
from sidestep.runtime import liveness
from sidestep.runtime.errors import AgainError
from sidestep.tasks.prepared import prepare
from sidestep.training.checkpoint import restore
from sidestep.training.numbers import NUMBERS_FILE, Progress, read_numbers
from sidestep.training.team import BEGINS, OVER, Processes

log = logging.getLogger(__name__)


def follow(job: Job, team: Processes) -> None:
    """Make the steps of rank 0's training with it, until it ends.

    Raises AgainError where notice came to any rank, PeerLostError where one is gone, and what
    `tasks.prepared.prepare` raises.
    """
    liveness.begin(job.workspace.root)  # a probe asks at each node
    content = team.told(BEGINS)
    if content == OVER:
        return
    numbers = read_numbers(content, NUMBERS_FILE) if content else None
    start = ResumePoint(job.output_store.place, None, numbers=numbers)
    with job.workspace.temporary() as temporary:
        dataset = Preprocessed(job.tensors)
        prepared = prepare(job, dataset, start, settings_of(job, dataset, numbers), team)
        trainer = prepared.trainer
        team.check_same(prepared.fingerprint | {"machine": prepared.kind})
        with job.preemption.deferred():
            folder, progress = Path(temporary), Progress()
            if team.receive(folder):
                progress = restore(folder, trainer.adapter, trainer.optimizer, trainer.ema)
            team.begin_with(progress)
            if progress.step > 0:
                trainer.settle(progress)  # as rank 0 does
            for _ in trainer.steps(progress):
                pass
            team.leave()
    if not trainer.is_over(progress):
        team.outlast_rank_0()
        raise AgainError(
            f"rank {team.rank} has stopped after step {progress.step}, as all have: rank 0 saves"
        )
