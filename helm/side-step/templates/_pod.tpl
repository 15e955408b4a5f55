{{/*
What the pods of the Job and of `helm test` have in common. Takes a dict: root, the chart's context; args, the
command; resources, those of the container; claim, the workspace's, where it has one; and livenessProbe.
*/}}
{{- define "side-step.podSpec" -}}
{{- $values := .root.Values -}}
restartPolicy: Never
terminationGracePeriodSeconds: {{ include "side-step.terminationGracePeriodSeconds" .root }}
serviceAccountName: {{ include "side-step.serviceAccountName" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with $values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml $values.podSecurityContext | nindent 2 }}
containers:
  - name: sidestep
    image: {{ printf "%s:%s" $values.image.repository (default (printf "%s-cuda13" .root.Chart.AppVersion) $values.image.tag) | quote }}
    imagePullPolicy: {{ $values.image.pullPolicy }}
    args:
      {{- toYaml .args | nindent 6 }}
    {{- with $values.extraEnv }}
    env:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with $values.existingSecret }}
    envFrom:
      - secretRef:
          name: {{ . }}
    {{- end }}
    {{- with .livenessProbe }}
    livenessProbe:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    resources:
      {{- toYaml .resources | nindent 6 }}
    securityContext:
      {{- toYaml $values.securityContext | nindent 6 }}
    volumeMounts:
      - name: job
        mountPath: /etc/sidestep
        readOnly: true
      - name: workspace
        mountPath: /workspace
      - name: shm
        mountPath: /dev/shm
      {{- with $values.extraVolumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
volumes:
  - name: job
    configMap:
      name: {{ include "side-step.configMapName" .root }}
  - name: workspace
    {{- if .claim }}
    persistentVolumeClaim:
      claimName: {{ .claim }}
    {{- else }}
    emptyDir:
      sizeLimit: {{ $values.workspace.size }}
    {{- end }}
  - name: shm
    emptyDir:
      medium: Memory
      sizeLimit: {{ $values.shmSize }}
  {{- with $values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* The Job's resources: what the values say, the workspace's disk where it is the node's, and the GPU. */}}
{{- define "side-step.resources" -}}
{{- $resources := deepCopy .Values.resources }}
{{- if not .Values.workspace.existingClaim }}
{{- $resources = merge $resources (dict "requests" (dict "ephemeral-storage" .Values.workspace.size)) }}
{{- end }}
{{- $device := dig "runtime" "device" "auto" (default dict .Values.job) }}
{{- if and (gt (int .Values.gpu.count) 0) (ne $device "cpu") }}
{{- $resources = merge $resources (dict "limits" (dict .Values.gpu.resource (toString .Values.gpu.count))) }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{- define "side-step.podTemplate" -}}
metadata:
  labels:
    {{- include "side-step.selectorLabels" . | nindent 4 }}
    app.kubernetes.io/component: job
    {{- with .Values.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- $pod := dict "root" . "args" (list "run") "livenessProbe" .Values.livenessProbe }}
  {{- $_ := set $pod "resources" (include "side-step.resources" . | fromYaml) }}
  {{- include "side-step.podSpec" (set $pod "claim" .Values.workspace.existingClaim) | nindent 2 }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
{{- end }}

{{- define "side-step.podFailurePolicy" -}}
{{ .Files.Get "files/pod-failure-policy.json" | fromJson | toYaml }}
{{- end }}

{{/* What a Job cannot change once it is there is in its name: another spec, template or policy, another Job. */}}
{{- define "side-step.jobName" -}}
{{- $fixed := printf "%s%s" (include "side-step.podTemplate" .) (include "side-step.podFailurePolicy" .) }}
{{- printf "%s-%s" (include "side-step.fullname" .) ($fixed | sha256sum | trunc 8) }}
{{- end }}
