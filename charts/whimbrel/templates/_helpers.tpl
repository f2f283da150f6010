{{- define "whimbrel.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "whimbrel.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "whimbrel.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "whimbrel.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* What selects pods. Takes (dict "root" $ "component" NAME). */}}
{{- define "whimbrel.selector" -}}
app.kubernetes.io/name: {{ include "whimbrel.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{- define "whimbrel.labels" -}}
{{ include "whimbrel.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: whimbrel
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Name, labels and annotations. Takes (dict "root" $ "component" NAME), and "suffix" if the name is another. */}}
{{- define "whimbrel.metadata" -}}
name: {{ include "whimbrel.fullname" .root }}{{ with (.suffix | default .component) }}-{{ . }}{{ end }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "whimbrel.labels" . | nindent 2 }}
{{- with .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "whimbrel.image" -}}
{{- $image := .root.Values.image }}
{{- with $image.registry }}{{ . }}/{{ end }}{{ $image.repository }}/{{ .component }}:{{ $image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- define "whimbrel.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}{{ default (include "whimbrel.fullname" .) .Values.serviceAccount.name }}{{ else }}{{ default "default" .Values.serviceAccount.name }}{{ end }}
{{- end }}

{{/* Refuses what the schema can't: a credential that is missing where it is needed. */}}
{{- define "whimbrel.check" -}}
{{- $v := .Values }}
{{- if not $v.database.existingSecret }}
{{- fail "database.existingSecret is missing: the name of a Secret whose key database.urlKey holds postgres://user:password@host:port/database" }}
{{- end }}
{{- if not $v.amqp.existingSecret }}
{{- fail "amqp.existingSecret is missing: the name of a Secret whose key amqp.urlKey holds amqp://user:password@host:port/vhost" }}
{{- end }}
{{- if and (eq $v.api.auth "http_basic") (not $v.api.httpBasic.existingSecret) }}
{{- fail "api.httpBasic.existingSecret is missing: with api.auth=http_basic it names a Secret with the keys users and roles" }}
{{- end }}
{{- if and (eq $v.api.auth "keystone") (not (and $v.api.keystone.existingSecret $v.api.keystone.url $v.api.keystone.username)) }}
{{- fail "api.keystone needs url, username and existingSecret: with api.auth=keystone the API asks the identity service who a caller is" }}
{{- end }}
{{- if and $v.api.autoscaling.enabled (gt (int $v.api.autoscaling.minReplicas) (int $v.api.autoscaling.maxReplicas)) }}
{{- fail "api.autoscaling.minReplicas is larger than api.autoscaling.maxReplicas" }}
{{- end }}
{{- if and $v.api.ingress.enabled (not $v.api.ingress.host) }}
{{- fail "api.ingress.host is missing: the name that callers use" }}
{{- end }}
{{- range $name, $config := dict "api" $v.api.config "conductor" $v.conductor.config "scheduler" $v.scheduler.config "compute" $v.compute.config }}
{{- range $key, $value := $config }}
{{- if or (hasSuffix "password" $key) (eq $key "url") (eq $key "image_url") }}
{{- fail (printf "%s.config.%s: credentials do not belong into values; use an existingSecret" $name $key) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "whimbrel.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "whimbrel.podRestricted" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* Liveness asks only whether the process turns: to start it again because the broker is down makes it worse. */}}
{{- define "whimbrel.probes" -}}
startupProbe:
  httpGet: { path: /livez, port: management }
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: { path: /livez, port: management }
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: { path: /readyz, port: management }
  periodSeconds: 5
  timeoutSeconds: 8
  failureThreshold: 2
{{- end }}

{{/* Secrets come as files, never as variables. Takes (dict "root" $ "database" BOOL). */}}
{{- define "whimbrel.secretEnv" -}}
{{- if .database }}
- name: WHIMBREL__DATABASE__URL_FILE
  value: /run/secrets/whimbrel/database/url
{{- end }}
- name: WHIMBREL__AMQP__URL_FILE
  value: /run/secrets/whimbrel/amqp/url
{{- end }}

{{- define "whimbrel.secretMounts" -}}
{{- if .database }}
- name: database
  mountPath: /run/secrets/whimbrel/database
  readOnly: true
{{- end }}
- name: amqp
  mountPath: /run/secrets/whimbrel/amqp
  readOnly: true
{{- end }}

{{- define "whimbrel.secretVolumes" -}}
{{- if .database }}
- name: database
  secret:
    secretName: {{ .root.Values.database.existingSecret }}
    defaultMode: 0440
    items:
      - { key: {{ .root.Values.database.urlKey | quote }}, path: url }
{{- end }}
- name: amqp
  secret:
    secretName: {{ .root.Values.amqp.existingSecret }}
    defaultMode: 0440
    items:
      - { key: {{ .root.Values.amqp.urlKey | quote }}, path: url }
{{- end }}

{{/* A table of values as lines of TOML: key = value. */}}
{{- define "whimbrel.toml" -}}
{{- range $key, $value := . }}
{{- if kindIs "map" $value }}
{{- fail (printf "%s: a table inside a section is not supported here" $key) }}
{{- end }}
{{ $key }} = {{ $value | toJson }}
{{- end }}
{{- end }}

{{/* What api, conductor and scheduler have alike. Takes (dict "root" $ "component" NAME), and texts of YAML: ports, env,
     mounts, volumes. */}}
{{- define "whimbrel.deployment" -}}
{{- $values := index .root.Values .component }}
{{- $scaled := and (hasKey $values "autoscaling") (dig "autoscaling" "enabled" false $values) }}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "whimbrel.metadata" . | nindent 2 }}
spec:
  {{- if not $scaled }}
  replicas: {{ $values.replicas }}
  {{- end }}
  revisionHistoryLimit: 3
  strategy:
    type: RollingUpdate
    rollingUpdate:
      maxUnavailable: 0
      maxSurge: 1
  selector:
    matchLabels:
      {{- include "whimbrel.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "whimbrel.labels" . | nindent 8 }}
        {{- with $values.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        checksum/config: {{ include (print .root.Template.BasePath "/configmap.yaml") .root | sha256sum }}
        {{- with $values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: {{ include "whimbrel.serviceAccountName" .root }}
      automountServiceAccountToken: false
      {{- with .root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
      securityContext:
        {{- include "whimbrel.podRestricted" . | nindent 8 }}
      containers:
        - name: {{ .component }}
          image: {{ include "whimbrel.image" . }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          args: [--config, /etc/whimbrel/{{ .component }}.toml]
          env:
            {{- include "whimbrel.secretEnv" (dict "root" .root "database" true) | nindent 12 }}
            {{- with .env }}
            {{- . | nindent 12 }}
            {{- end }}
            {{- with $values.extraEnv }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          ports:
            {{- with .ports }}
            {{- . | nindent 12 }}
            {{- end }}
            - { name: management, containerPort: {{ .root.Values.management.port }} }
          {{- include "whimbrel.probes" . | nindent 10 }}
          securityContext:
            {{- include "whimbrel.restricted" . | nindent 12 }}
          resources:
            {{- toYaml $values.resources | nindent 12 }}
          volumeMounts:
            - { name: config, mountPath: /etc/whimbrel, readOnly: true }
            {{- include "whimbrel.secretMounts" (dict "root" .root "database" true) | nindent 12 }}
            {{- with .mounts }}
            {{- . | nindent 12 }}
            {{- end }}
            {{- with $values.extraVolumeMounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
      volumes:
        - name: config
          configMap:
            name: {{ include "whimbrel.fullname" .root }}
            items:
              - { key: {{ .component }}.toml, path: {{ .component }}.toml }
        {{- include "whimbrel.secretVolumes" (dict "root" .root "database" true) | nindent 8 }}
        {{- with .volumes }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- with $values.extraVolumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      topologySpreadConstraints:
        {{- if $values.topologySpreadConstraints }}
        {{- toYaml $values.topologySpreadConstraints | nindent 8 }}
        {{- else }}
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- include "whimbrel.selector" . | nindent 14 }}
        {{- end }}
      {{- with $values.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
{{- end }}
