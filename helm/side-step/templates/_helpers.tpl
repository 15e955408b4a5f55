{{- define "side-step.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 54 | trimSuffix "-" }}
{{- end }}

{{/* 54 characters, as names get a digest of 8 and a pod's label of its Job's name takes 63. */}}
{{- define "side-step.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 54 | trimSuffix "-" }}
{{- else if contains (include "side-step.name" .) .Release.Name }}
{{- .Release.Name | trunc 54 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "side-step.name" .) | trunc 54 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "side-step.selectorLabels" -}}
app.kubernetes.io/name: {{ include "side-step.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "side-step.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "side-step.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The spec as JSON: toYaml would write 1e-05, which YAML 1.1 reads as text. */}}
{{- define "side-step.spec" -}}
{{ toPrettyJson .Values.job }}
{{- end }}

{{- define "side-step.configMapName" -}}
{{- if dig "runtime" "webhook" "" (default dict .Values.job) }}
{{- fail "\n\njob.runtime.webhook is a secret, and the job spec goes into a ConfigMap: give it as the key SIDESTEP_RUNTIME__WEBHOOK of the Secret in existingSecret." }}
{{- end }}
{{- if .Values.existingConfigMap }}
{{- .Values.existingConfigMap }}
{{- else if .Values.job }}
{{- printf "%s-%s" (include "side-step.fullname" .) (include "side-step.spec" . | sha256sum | trunc 8) }}
{{- else }}
{{- fail "\n\nThere is no job. Set `job` to the job spec (see the comments in values.yaml), or existingConfigMap to the name of a ConfigMap that has it under the key job.yaml." }}
{{- end }}
{{- end }}

{{- define "side-step.serviceAccountName" -}}
{{- default (ternary (include "side-step.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}

{{/* Above the spec's grace_seconds: by then the job has ended by itself, with its state saved. */}}
{{- define "side-step.terminationGracePeriodSeconds" -}}
{{- $grace := dig "runtime" "grace_seconds" 30 (default dict .Values.job) }}
{{- $seconds := default (add (ceil $grace) 10) .Values.terminationGracePeriodSeconds }}
{{- if le (float64 $seconds) (float64 $grace) }}
{{- fail (printf "\n\nterminationGracePeriodSeconds is %v, and the job takes up to %v (job.runtime.grace_seconds) to save its state: it must be more, ten seconds more for example." $seconds $grace) }}
{{- end }}
{{- int $seconds }}
{{- end }}

{{- define "side-step.logdir" -}}
{{- $output := dig "output_dir" "" (default dict .Values.job) }}
{{- if .Values.tensorboard.logdir }}
{{- .Values.tensorboard.logdir }}
{{- else if $output }}
{{- printf "%s/runs" (trimSuffix "/" $output) }}
{{- else }}
{{- fail "\n\ntensorboard is enabled, and the chart does not know the spec's output_dir: set tensorboard.logdir." }}
{{- end }}
{{- end }}

{{/* Where the job serves its metrics; nothing where it does not. */}}
{{- define "side-step.metricsPort" -}}
{{- $port := default (dig "runtime" "metrics_port" nil (default dict .Values.job)) .Values.metrics.port }}
{{- if $port }}
{{- int $port }}
{{- else if or .Values.metrics.podMonitor.enabled .Values.networkPolicy.metricsFrom }}
{{- fail "\n\nmetrics.podMonitor and networkPolicy.metricsFrom are about the job's metrics, and it serves none: set metrics.port, to 9400 for example." }}
{{- end }}
{{- end }}
