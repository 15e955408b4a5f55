{{/*
How many there are of `nodes` or of `gpus` that train one adapter: what the values say, else the spec. Takes a
dict: root, the chart's context; name; and value.
*/}}
{{- define "side-step.count" -}}
{{- $values := .root.Values }}
{{- $job := default dict $values.job }}
{{- $task := ternary "train" (dig "task" "pipeline" $job) (empty $job) }}
{{- $count := default (dig "runtime" .name 1 $job) .value | int }}
{{- if and (gt $count 1) (eq $task "pipeline") }}
{{- fail (printf "\n\n%s is %d, and several GPUs only train, but job.task is pipeline: install preprocess as a release of its own (job.task: preprocess), and after it this one with job.task: train." .name $count) }}
{{- else if and (gt $count 1) (eq $task "train") (dig "sweep" dict $job) }}
{{- fail (printf "\n\n%s is %d, and a run of a sweep is one process: leave job.sweep out, or train with one GPU each." .name $count) }}
{{- end }}
{{- ternary $count 1 (eq $task "train") }}
{{- end }}

{{- define "side-step.nodes" -}}
{{- include "side-step.count" (dict "root" . "name" "nodes" "value" .Values.nodes) }}
{{- end }}

{{- define "side-step.gpus" -}}
{{- include "side-step.count" (dict "root" . "name" "gpus" "value" .Values.gpusPerNode) }}
{{- end }}

{{/* The command's words, as a list. */}}
{{- define "side-step.args" -}}
{{- $nodes := int (include "side-step.nodes" .) }}
{{- $gpus := int (include "side-step.gpus" .) }}
{{- $words := list "run" }}
{{- if gt (mul $nodes $gpus) 1 }}
{{- $words = list "launch" "--processes" (toString $gpus) }}
{{- if gt $nodes 1 }}
{{- $words = concat $words (list "--nodes" (toString $nodes)) }}
{{- end }}
{{- $words = append $words "train" }}
{{- end }}
{{- toJson $words }}
{{- end }}

{{/* What the code says of several: see sidestep/platforms/jobset.py. */}}
{{- define "side-step.several" -}}
{{- .Files.Get "files/jobset.json" }}
{{- end }}

{{/*
As the Job's: what cannot change once it is there is in its name, and of a JobSet that is nearly all. A pod's name
has JobSet's parts too, and 63 characters.
*/}}
{{- define "side-step.jobSetName" -}}
{{- $bounds := dict "restarts" .Values.backoffLimit "seconds" .Values.activeDeadlineSeconds | toJson }}
{{- $fixed := printf "%s%s%s%d" (include "side-step.podTemplate" .) (include "side-step.several" .) $bounds (int .Values.rerun) }}
{{- printf "%s-%s" (include "side-step.fullname" . | trunc 34 | trimSuffix "-") ($fixed | sha256sum | trunc 8) }}
{{- end }}
