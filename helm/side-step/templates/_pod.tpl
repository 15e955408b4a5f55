{{/*
What the pods of the Job and of `helm test` have in common. Takes a dict: root, the chart's context; args, the
command; resources, those of the container; workspace, its volume; and, of the Job alone, initContainers,
livenessProbe, metricsPort, env and sharedMemory, the size of what its processes exchange in memory.
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
{{- with .initContainers }}
initContainers:
  {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - name: sidestep
    {{- $tag := default (printf "%s-cuda%v" .root.Chart.AppVersion $values.image.cuda) $values.image.tag }}
    image: {{ include "side-step.image" (list $values.image.repository $tag $values.image.digest) | quote }}
    imagePullPolicy: {{ $values.image.pullPolicy }}
    args:
      {{- toYaml .args | nindent 6 }}
    # The last lines of the log say why it ended; kubectl describe shows them.
    terminationMessagePolicy: FallbackToLogsOnError
    {{- $env := concat (default list .env) (include "side-step.mayBeMissing" $values.extraEnv | fromYamlArray) }}
    {{- if and .metricsPort $values.metrics.port }}
    {{- $env = append $env (dict "name" "SIDESTEP_RUNTIME__METRICS_PORT" "value" .metricsPort) }}
    {{- end }}
    {{- with $env }}
    env:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .metricsPort }}
    ports:
      - name: metrics
        containerPort: {{ . }}
    {{- end }}
    {{- with include "side-step.envFrom" .root | fromYamlArray }}
    envFrom:
      {{- toYaml . | nindent 6 }}
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
      {{- if .sharedMemory }}
      - name: shared-memory
        mountPath: /dev/shm
      {{- end }}
      {{- with $values.extraVolumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
volumes:
  - name: job
    configMap:
      name: {{ include "side-step.configMapName" .root }}
      {{- if $values.existingConfigMap }}
      optional: true
      {{- end }}
  - name: workspace
    {{- toYaml .workspace | nindent 4 }}
  {{- with .sharedMemory }}
  - name: shared-memory
    emptyDir:
      medium: Memory
      sizeLimit: {{ . }}
  {{- end }}
  {{- with include "side-step.mayBeMissing" $values.extraVolumes | fromYamlArray }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* An image's reference. Takes a list: repository, tag, digest. */}}
{{- define "side-step.image" -}}
{{- if index . 2 }}{{ index . 0 }}@{{ index . 2 }}{{ else }}{{ index . 0 }}:{{ index . 1 }}{{ end }}
{{- end }}

{{/*
The items of a list (of envFrom, env or volumes), as a list: a Secret or ConfigMap that is missing does not hold
the pod on its node, unless the item says so. The job starts, says what it lacks, and ends.
*/}}
{{- define "side-step.mayBeMissing" -}}
{{- range . }}
{{- $item := deepCopy . }}
{{- $source := default dict $item.valueFrom }}
{{- range tuple $item.secretRef $item.configMapRef $source.secretKeyRef $source.configMapKeyRef $item.secret $item.configMap }}
{{- if and . (not (hasKey . "optional")) }}
{{- $_ := set . "optional" true }}
{{- end }}
{{- end }}
- {{ toJson $item }}
{{- end }}
{{- end }}

{{- define "side-step.envFrom" -}}
{{- $sources := .Values.envFrom }}
{{- with .Values.existingSecret }}
{{- $sources = prepend $sources (dict "secretRef" (dict "name" .)) }}
{{- end }}
{{- include "side-step.mayBeMissing" $sources }}
{{- end }}

{{/* The workspace's size: what the values say, else the sum that sidestep/platforms/disk.py does. */}}
{{- define "side-step.workspaceSize" -}}
{{- if .Values.workspace.size }}
{{- .Values.workspace.size }}
{{- else }}
{{- $job := default dict .Values.job }}
{{- $sizes := .Files.Get "files/workspace.json" | fromJson }}
{{- $default := ternary "" "base" (empty $job) }}
{{- $isSmall := has (dig "model_variant" $default $job) $sizes.smallModels }}
{{- $parts := 1 }}
{{- $sweep := default dict (dig "sweep" dict $job) }}
{{- $types := dig "train.adapter.type" (list (dig "train" "adapter" "type" "lora" $job)) $sweep }}
{{- if has "lora" $types }}
{{- range $rank := dig "train.adapter.rank" (list (dig "train" "adapter" "rank" 64 $job)) $sweep }}
{{- $parts = max $parts (ceil (divf $rank 64)) }}
{{- end }}
{{- end }}
{{- $cache := ceil (divf (mulf (default 0 (dig "storage" "cache_gb" 0 $job)) 1e9) 1073741824) }}
{{- add (ternary $sizes.smallModel $sizes.largeModel $isSmall) (mul $sizes.checkpoints $parts) $sizes.songs $cache }}Gi
{{- end }}
{{- end }}

{{- define "side-step.nodeDisk" -}}
emptyDir:
  sizeLimit: {{ include "side-step.workspaceSize" . }}
{{- end }}

{{/* The workspace of the Job: the node's disk, a volume that goes with the pod, or a claim. */}}
{{- define "side-step.workspace" -}}
{{- if and .Values.workspace.existingClaim .Values.workspace.ephemeralVolume.enabled }}
{{- fail "\n\nworkspace.existingClaim and workspace.ephemeralVolume.enabled are both set: the workspace is one of the two." }}
{{- end }}
{{- if .Values.workspace.existingClaim -}}
persistentVolumeClaim:
  claimName: {{ .Values.workspace.existingClaim }}
{{- else if .Values.workspace.ephemeralVolume.enabled -}}
ephemeral:
  volumeClaimTemplate:
    spec:
      accessModes: [ReadWriteOnce]
      {{- with .Values.workspace.ephemeralVolume.storageClassName }}
      storageClassName: {{ . }}
      {{- end }}
      resources:
        requests:
          storage: {{ include "side-step.workspaceSize" . }}
{{- else -}}
{{- include "side-step.nodeDisk" . }}
{{- end }}
{{- end }}

{{/*
The Job's probe: the one of the values, with a command if it has none of its own. As in hung_minutes in
sidestep/platforms/kubernetes.py, it is slower than the job's own watchdog, and not there where that is off.
*/}}
{{- define "side-step.livenessProbe" -}}
{{- $probe := default dict .Values.livenessProbe }}
{{- $own := or $probe.exec $probe.httpGet $probe.tcpSocket $probe.grpc }}
{{- $runtime := dig "runtime" dict (default dict .Values.job) }}
{{- $stall := dig "stall_minutes" 15 $runtime }}
{{- $first := dig "first_step_minutes" 60 $runtime }}
{{- if and $probe $own }}
{{- toYaml $probe }}
{{- else if and $probe $stall $first }}
{{- $minutes := maxf $stall $first (divf (dig "lease_seconds" 60 $runtime) 60) | ceil | int | add 15 }}
{{- $command := list "find" "/workspace/alive" "-mmin" (printf "+%d" $minutes) "-exec" "false" "{}" "+" }}
{{- toYaml (merge (dict "exec" (dict "command" $command)) $probe) }}
{{- end }}
{{- end }}

{{/* The Job's resources: what the values say, the workspace's disk where it is the node's, and the GPU. */}}
{{- define "side-step.resources" -}}
{{- $resources := deepCopy .Values.resources }}
{{- if hasKey (include "side-step.workspace" . | fromYaml) "emptyDir" }}
{{- $size := include "side-step.workspaceSize" . }}
{{- $resources = merge $resources (dict "requests" (dict "ephemeral-storage" $size)) }}
{{- end }}
{{- $device := dig "runtime" "device" "auto" (default dict .Values.job) }}
{{- $gpus := int (include "side-step.gpus" .) }}
{{- $count := ternary $gpus (int .Values.gpu.count) (gt $gpus 1) }}
{{- if and (gt $count 0) (ne $device "cpu") }}
{{- $resources = merge $resources (dict "limits" (dict .Values.gpu.resource (toString $count))) }}
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
  {{- $pod := dict "root" . "args" (include "side-step.args" . | fromJsonArray) }}
  {{- if gt (int (include "side-step.nodes" .)) 1 }}
  {{- $_ := set $pod "env" (include "side-step.several" . | fromJson).env }}
  {{- end }}
  {{- if gt (int (include "side-step.gpus" .)) 1 }}
  {{- $_ := set $pod "sharedMemory" (include "side-step.several" . | fromJson).sharedMemory }}
  {{- end }}
  {{- $_ := set $pod "livenessProbe" (include "side-step.livenessProbe" . | fromYaml) }}
  {{- $_ := set $pod "resources" (include "side-step.resources" . | fromYaml) }}
  {{- $_ := set $pod "metricsPort" (include "side-step.metricsPort" .) }}
  {{- $_ := set $pod "workspace" (include "side-step.workspace" . | fromYaml) }}
  {{- include "side-step.podSpec" (set $pod "initContainers" .Values.initContainers) | nindent 2 }}
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
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
{{- end }}

{{/* How many pods the Job has, each with an index: the runs of the spec's sweep (the product of its lists), or its
shards; 0 where it is one pod. */}}
{{- define "side-step.indexes" -}}
{{- $job := default dict .Values.job }}
{{- $sweep := default dict (dig "sweep" dict $job) }}
{{- $runs := 0 }}
{{- if and $sweep (has (dig "task" "pipeline" $job) (list "train" "pipeline")) }}
{{- $runs = 1 }}
{{- range $values := $sweep }}
{{- $runs = mul $runs (len $values) }}
{{- end }}
{{- else if eq (dig "task" "pipeline" $job) "preprocess" }}
{{- $shards := int (default 1 (dig "preprocess" "shards" 1 $job)) }}
{{- $isOne := not (kindIs "invalid" (dig "preprocess" "shard" nil $job)) }}
{{- $runs = ternary $shards 0 (and (gt $shards 1) (not $isOne)) }}
{{- end }}
{{- $runs }}
{{- end }}

{{- define "side-step.podFailurePolicy" -}}
{{- $file := ternary "indexed" "pod" (gt (int (include "side-step.indexes" .)) 0) }}
{{- .Files.Get (printf "files/%s-failure-policy.json" $file) | fromJson | toYaml }}
{{- end }}

{{/* What a Job cannot change once it is there is in its name: another spec, template or policy, another Job. So
is how often it was asked for. */}}
{{- define "side-step.jobName" -}}
{{- $fixed := printf "%s%s" (include "side-step.podTemplate" .) (include "side-step.podFailurePolicy" .) }}
{{- if .Values.rerun }}
{{- $fixed = printf "%s%d" $fixed (int .Values.rerun) }}
{{- end }}
{{- printf "%s-%s" (include "side-step.fullname" .) ($fixed | sha256sum | trunc 8) }}
{{- end }}

{{/* Those of the Job or the JobSet: Kueue's, too. */}}
{{- define "side-step.jobLabels" -}}
{{- $labels := include "side-step.labels" . | fromYaml }}
{{- with .Values.kueue.queueName }}
{{- $_ := set $labels "kueue.x-k8s.io/queue-name" . }}
{{- end }}
{{- with .Values.kueue.priorityClass }}
{{- $_ := set $labels "kueue.x-k8s.io/priority-class" . }}
{{- end }}
{{- with .Values.kueue.maxExecTimeSeconds }}
{{- $_ := set $labels "kueue.x-k8s.io/max-exec-time-seconds" (int . | toString) }}
{{- end }}
{{- toYaml (merge $labels .Values.jobLabels) }}
{{- end }}
