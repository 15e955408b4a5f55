#!/bin/bash
#SBATCH --job-name=my-lora
#SBATCH --output=my-lora-%j.log
#SBATCH --open-mode=append
#SBATCH --cpus-per-task=4
#SBATCH --mem=32G
#SBATCH --gres=gpu:1
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@40
# Side-Step: the job my-lora on Slurm, with Apptainer. Submit it:
#   sbatch jobs/slurm/pipeline-local.sh
set -u
workspace=$(mktemp -d "${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/sidestep-XXXXXX") || exit 72
trap 'rm -rf "$workspace"' EXIT
mkdir -p /data/runs/my-lora
# --cleanenv keeps the node's settings (PYTHONPATH, HF_HOME, ...) out. The image gets these variables.
export APPTAINERENV_SIDESTEP_NAME=my-lora
export APPTAINERENV_SIDESTEP_TASK=pipeline
export APPTAINERENV_SIDESTEP_CHECKPOINT_DIR=/data/checkpoints
export APPTAINERENV_SIDESTEP_MODEL_VARIANT=base
export APPTAINERENV_SIDESTEP_AUDIO_DIR=/data/songs
export APPTAINERENV_SIDESTEP_OUTPUT_DIR=/data/runs/my-lora
export APPTAINERENV_SIDESTEP_TRAIN__ADAPTER__TYPE=lora
export APPTAINERENV_SIDESTEP_TRAIN__ADAPTER__RANK=64
export APPTAINERENV_SIDESTEP_TRAIN__ADAPTER__ALPHA=128.0
export APPTAINERENV_SIDESTEP_TRAIN__EPOCHS=100
export APPTAINERENV_SIDESTEP_TRAIN__LR=0.0001
export APPTAINERENV_SIDESTEP_TRAIN__CHECKPOINT__EVERY_EPOCHS=10
export APPTAINERENV_SIDESTEP_TRAIN__CHECKPOINT__KEEP=3
[[ -z "${CUDA_VISIBLE_DEVICES+set}" ]] || export APPTAINERENV_CUDA_VISIBLE_DEVICES="$CUDA_VISIBLE_DEVICES"

apptainer run --cleanenv --no-eval --nv \
    --home "$workspace:/workspace" \
    --bind /data/checkpoints:/data/checkpoints:ro \
    --bind /data/songs:/data/songs:ro \
    --bind /data/runs/my-lora:/data/runs/my-lora \
    docker://ghcr.io/side-step/side-step:0.1.0-cuda13 run &
job=$!
trap 'signalled=yes; kill -TERM "$job"' TERM

# A signal that is trapped ends `wait`, not the job: then it is waited for again.
signalled=yes
while [[ -n "$signalled" ]]; do
    signalled=
    wait "$job"
    code=$?
done
if [[ "$code" -eq 75 ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
