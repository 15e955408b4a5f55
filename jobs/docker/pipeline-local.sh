#!/bin/sh
# Side-Step: the job my-lora in Docker, on this machine. Start it, or go on with it:
#   sh jobs/docker/pipeline-local.sh
# To stop it with its progress saved (exit code 75):
#   docker stop sidestep-my-lora
set -eu
mkdir -p /data/runs/my-lora
exec docker run --rm --init \
    --gpus all \
    --stop-timeout 40 \
    --cap-drop all --security-opt no-new-privileges \
    --name sidestep-my-lora \
    --user "$(id -u):$(id -g)" \
    --volume sidestep-my-lora:/workspace \
    --volume /data/checkpoints:/data/checkpoints:ro \
    --volume /data/songs:/data/songs:ro \
    --volume /data/runs/my-lora:/data/runs/my-lora \
    --env SIDESTEP_NAME=my-lora \
    --env SIDESTEP_TASK=pipeline \
    --env SIDESTEP_CHECKPOINT_DIR=/data/checkpoints \
    --env SIDESTEP_MODEL_VARIANT=base \
    --env SIDESTEP_AUDIO_DIR=/data/songs \
    --env SIDESTEP_OUTPUT_DIR=/data/runs/my-lora \
    --env SIDESTEP_TRAIN__ADAPTER__TYPE=lora \
    --env SIDESTEP_TRAIN__ADAPTER__RANK=64 \
    --env SIDESTEP_TRAIN__ADAPTER__ALPHA=128.0 \
    --env SIDESTEP_TRAIN__EPOCHS=100 \
    --env SIDESTEP_TRAIN__LR=0.0001 \
    --env SIDESTEP_TRAIN__CHECKPOINT__EVERY_EPOCHS=10 \
    --env SIDESTEP_TRAIN__CHECKPOINT__KEEP=3 \
    ghcr.io/side-step/side-step:0.1.0-cuda13 run
