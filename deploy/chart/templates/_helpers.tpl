{{- define "licenseserver.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Short enough for the longest suffix (-migrate, -metrics) within 63 characters. */}}
{{- define "licenseserver.fullname" -}}
{{- $name := include "licenseserver.name" . }}
{{- $full := printf "%s-%s" .Release.Name $name }}
{{- if contains $name .Release.Name }}{{ $full = .Release.Name }}{{ end }}
{{- default $full .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{/* What a Service, a Deployment or a policy knows the pods of a component by. */}}
{{- define "licenseserver.selector" -}}
app.kubernetes.io/name: {{ include "licenseserver.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* All labels of an object, each once: `more` wins over commonLabels, and they over the chart's own. */}}
{{- define "licenseserver.labels" -}}
{{- $chart := printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- $own := dict "app.kubernetes.io/version" .root.Chart.AppVersion "app.kubernetes.io/managed-by" .root.Release.Service "helm.sh/chart" $chart }}
{{- toYaml (merge (include "licenseserver.selector" . | fromYaml) (default dict .more) .root.Values.commonLabels $own) }}
{{- end }}

{{- define "licenseserver.podLabels" -}}
{{ include "licenseserver.labels" (dict "root" .root "component" .component "more" .root.Values.podLabels) }}
{{- end }}

{{/* An image by its digest, else by its tag. */}}
{{- define "licenseserver.image" -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag }}{{ end }}
{{- end }}

{{- define "licenseserver.appImage" -}}
image: {{ include "licenseserver.image" (merge (dict "tag" (default .Chart.AppVersion .Values.image.tag)) .Values.image) }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end }}

{{- define "licenseserver.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "licenseserver.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* A value as text: numbers arrive as floats; 1000000 must not become 1e+06, and 0.1 not 0. */}}
{{- define "licenseserver.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{- define "licenseserver.fromSecret" -}}
{secretKeyRef: {name: {{ .name | quote }}, key: {{ .key | quote }}}}
{{- end }}

{{/* The names that requests may come by. */}}
{{- define "licenseserver.hosts" -}}
{{- $full := include "licenseserver.fullname" . }}
{{- $service := list $full (printf "%s.%s" $full .Release.Namespace) (printf "%s.%s.svc" $full .Release.Namespace) (printf "%s.%s.svc.cluster.local" $full .Release.Namespace) }}
{{- concat .Values.ingress.hosts .Values.httpRoute.hostnames .Values.extraHosts $service | uniq | join "," }}
{{- end }}

{{/* Whether a proxy that is believed stands in front. */}}
{{- define "licenseserver.behindProxy" -}}
{{- if or .Values.proxy.enabled .Values.ingress.enabled .Values.httpRoute.enabled }}true{{ else }}false{{ end }}
{{- end }}

{{/* The environment of everything that runs the server's code. `database` is
     the reference to use, `statementTimeout` replaces the server's own. */}}
{{- define "licenseserver.env" -}}
{{- $values := .root.Values }}
- name: SECRET_KEY
  valueFrom: {{ include "licenseserver.fromSecret" (dict "name" $values.secretKey.existingSecret "key" $values.secretKey.key) }}
{{- with $values.secretKey.fallbacksKey }}
- name: SECRET_KEY_FALLBACKS
  valueFrom: {{ include "licenseserver.fromSecret" (dict "name" $values.secretKey.existingSecret "key" .) }}
{{- end }}
- name: DATABASE_URL
  valueFrom: {{ include "licenseserver.fromSecret" (dict "name" .database.existingSecret "key" .database.key) }}
{{- with $values.database.sslMode }}
{{- $roots := list }}{{ range $values.extraEnv }}{{ $roots = append $roots .name }}{{ end }}
{{- if and (hasPrefix "verify-" .) (not $values.database.caSecret) (not (has "PGSSLROOTCERT" $roots)) }}
{{- fail (printf "database.sslMode %s needs database.caSecret, or PGSSLROOTCERT in extraEnv" .) }}
{{- end }}
# libpq's own variables: the URL of an operator's Secret can stay as it is.
- name: PGSSLMODE
  value: {{ . }}
{{- end }}
{{- if $values.database.caSecret }}
- name: PGSSLROOTCERT
  value: /etc/licenseserver/database/ca.crt
{{- end }}
{{- if $values.caBundle.configMap }}
# One for requests, the other for Python's own TLS.
- name: REQUESTS_CA_BUNDLE
  value: /etc/licenseserver/trust/ca.crt
- name: SSL_CERT_FILE
  value: /etc/licenseserver/trust/ca.crt
{{- end }}
- name: ALLOWED_HOSTS
  value: {{ include "licenseserver.hosts" .root | quote }}
- name: TRUST_PROXY
  value: {{ include "licenseserver.behindProxy" .root | quote }}
{{- range $name, $value := omit $values.settings (ternary "DATABASE_STATEMENT_TIMEOUT" "" (hasKey . "statementTimeout")) (ternary "LICENSE_DB_POOLER" "" (default false .pastPooler)) }}
- name: {{ $name }}
  value: {{ include "licenseserver.text" $value | quote }}
{{- end }}
{{- range $name, $reference := $values.secretSettings }}
- name: {{ $name }}
  valueFrom: {{ include "licenseserver.fromSecret" $reference }}
{{- end }}
{{- if hasKey . "statementTimeout" }}
- name: DATABASE_STATEMENT_TIMEOUT
  value: {{ .statementTimeout | quote }}
{{- end }}
{{- with $values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What every pod has in common: no token, no privileges, where it may run. */}}
{{- define "licenseserver.pod" -}}
automountServiceAccountToken: false
# Variables for every Service of the namespace are for nobody here.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  {{- with .Values.runAsUser }}
  runAsUser: {{ int64 . }}
  runAsGroup: {{ int64 . }}
  fsGroup: {{ int64 . }}
  fsGroupChangePolicy: OnRootMismatch
  {{- end }}
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "licenseserver.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* Folders of a container that runs the server's code, and what is in them. */}}
{{- define "licenseserver.mounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if .Values.database.caSecret }}
- {name: database-ca, mountPath: /etc/licenseserver/database, readOnly: true}
{{- end }}
{{- if .Values.caBundle.configMap }}
- {name: trust, mountPath: /etc/licenseserver/trust, readOnly: true}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "licenseserver.volumes" -}}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{ end -}}
- name: tmp
  emptyDir: {sizeLimit: 256Mi}
{{- with .Values.database }}
{{- if .caSecret }}
- name: database-ca
  secret:
    secretName: {{ .caSecret }}
    items: [{key: {{ .caKey | quote }}, path: ca.crt}]
{{- end }}
{{- end }}
{{- with .Values.caBundle }}
{{- if .configMap }}
- name: trust
  configMap:
    name: {{ .configMap }}
    items: [{key: {{ .key | quote }}, path: ca.crt}]
{{- end }}
{{- end }}
{{- end }}
